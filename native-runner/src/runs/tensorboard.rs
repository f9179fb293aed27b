//! TensorBoard's event files, by hand: a few fields of two small messages.
//!
//! A file is a row of records, each a length, the length's checksum, an `Event` and its checksum.
//! `Event` and `Summary` are protocol buffers, whose fields are numbered in TensorFlow's
//! `event.proto` and `summary.proto`. The crates for it that there are stand still.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// What every file begins with.
const VERSION: &[u8] = b"brain.Event:2";

/// An event file that grows.
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Begins a file in `folder`. Of older files there, TensorBoard drops what they say of steps
    /// after `done`.
    pub fn create(folder: &Path, done: usize) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let seconds = wall_time();
        let name = format!("events.out.tfevents.{seconds:.0}.engram.{}", std::process::id());
        let path = folder.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let mut events = Self { file: file.with_context(|| path.display().to_string())?, path };
        events.write(&event(seconds, 0, &bytes_field(3, VERSION)))?;
        if done > 0 {
            // A `SessionLog` whose status is `START`.
            let start = bytes_field(7, &varint_field(1, 1));
            events.write(&event(seconds, done as u64 + 1, &start))?;
        }
        Ok(events)
    }

    /// The values of `step`, each under its tag.
    pub fn scalars(&mut self, step: usize, values: &[(&str, f32)]) -> Result<()> {
        let summary: Vec<u8> = values
            .iter()
            .flat_map(|(tag, value)| {
                let mut of_one = bytes_field(1, tag.as_bytes());
                of_one.push(2 << 3 | FIXED_32);
                of_one.extend(value.to_le_bytes());
                bytes_field(1, &of_one)
            })
            .collect();
        self.write(&event(wall_time(), step as u64, &bytes_field(5, &summary)))
    }

    /// Appends a record, in one piece.
    fn write(&mut self, event: &[u8]) -> Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let parts = [&length[..], &masked(&length), event, &masked(event)];
        self.file.write_all(&parts.concat()).with_context(|| self.path.display().to_string())
    }
}

/// The wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// An `Event` at `step` with one more field.
fn event(seconds: f64, step: u64, what: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | FIXED_64];
    event.extend(seconds.to_le_bytes());
    if step > 0 {
        event.extend(varint_field(2, step));
    }
    event.extend(what);
    event
}

fn varint_field(number: u8, value: u64) -> Vec<u8> {
    let mut field = vec![number << 3 | VARINT];
    field.extend(varint(value));
    field
}

fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | BYTES];
    field.extend(varint(bytes.len() as u64));
    field.extend(bytes);
    field
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// CRC-32C, turned and moved as TensorFlow does, so that a sum over sums stays sound.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli), bit by bit: an event has some hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1));
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // The check value of CRC-32C, and the examples of RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_scalar_is_encoded_as_the_proto_files_say() {
        assert_eq!(varint(300), [0xac, 0x02]);
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 0).unwrap();
        events.scalars(300, &[("val/loss", 2.5)]).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        // As every file of TensorFlow's begins: 24 bytes, and the checksum of that.
        assert_eq!(bytes[..13], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22, 0x09]);
        let first = 8 + 4 + bytes[0] as usize + 4;
        let second = &bytes[first + 12..bytes.len() - 4];
        assert_eq!(second[0], 0x09);
        let expected: &[u8] = b"\x10\xac\x02\x2a\x11\x0a\x0f\x0a\x08val/loss\x15\x00\x00\x20\x40";
        assert_eq!(&second[9..], expected);
    }
}
