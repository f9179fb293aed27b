//! SHA-256, as `sha256sum` prints it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// The sum of a file, in lower-case hexadecimal digits.
pub fn of_file(path: &Path) -> Result<String> {
    File::open(path)
        .and_then(|file| copy(file, &mut io::sink()))
        .map(|(_, sum)| sum)
        .with_context(|| path.display().to_string())
}

/// Copies `from` whole to `to`: the number of bytes, and their sum.
pub fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<(u64, String)> {
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut len = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sum.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        len += read as u64;
    }
    Ok((len, hex(&sum.finalize())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_standards_example() {
        let mut copied = Vec::new();
        let (len, sum) = copy(&b"abc"[..], &mut copied).unwrap();
        assert_eq!((len, copied.as_slice()), (3, &b"abc"[..]));
        assert_eq!(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
