//! A Hugging Face hub with one repository, `org/name`, a model's or a data set's as it is asked
//! for, that fails when it is told to.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

/// How a download (not the question for its size) goes wrong; [`Fault::Status`] hits either.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The connection ends after so many bytes.
    BreakAfter(usize),
    /// Nothing more comes after so many bytes.
    StallAfter(usize),
    /// The byte at this position is another.
    FlipByte(usize),
    /// The answer is this code.
    Status(u16),
}

#[derive(Default)]
struct State {
    fault: Option<(Fault, bool)>,
    requests: usize,
    ranges: Vec<u64>,
}

/// The running server; it serves until the test's process ends.
pub struct Hub {
    port: u16,
    files: Arc<HashMap<String, Vec<u8>>>,
    state: Arc<Mutex<State>>,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Hub {
    pub fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files: HashMap<_, _> =
            files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let files = Arc::new(files);
        let state = Arc::new(Mutex::new(State::default()));
        let hub = Self { port, files: files.clone(), state: state.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (files, state) = (files.clone(), state.clone());
                // A client that goes away ends its connection with an error, which is its affair.
                std::thread::spawn(move || serve(stream.unwrap(), &files, &state));
            }
        });
        hub
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next download goes wrong.
    pub fn fail_once(&self, fault: Fault) {
        self.state.lock().unwrap().fault = Some((fault, true));
    }

    /// Every download goes wrong from now on.
    pub fn fail_always(&self, fault: Fault) {
        self.state.lock().unwrap().fault = Some((fault, false));
    }

    pub fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }

    /// Where each download started.
    pub fn ranges(&self) -> Vec<u64> {
        self.state.lock().unwrap().ranges.clone()
    }

    pub fn etag(&self, file: &str) -> String {
        etag(&self.files[file])
    }
}

fn etag(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve(
    stream: TcpStream,
    files: &HashMap<String, Vec<u8>>,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut stream = stream;
    loop {
        let Some(request) = lines.next().transpose()? else { return Ok(()) };
        let mut range = None;
        for line in lines.by_ref() {
            let line = line?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            range = line.strip_prefix("range: bytes=").map(str::to_owned).or(range);
        }
        let is_question = range.as_deref() == Some("0-0");
        let is_download = range.is_some() && !is_question;
        let fault = {
            let mut state = state.lock().unwrap();
            state.requests += 1;
            match state.fault {
                Some((fault, once)) if is_download || matches!(fault, Fault::Status(_)) => {
                    if once {
                        state.fault = None;
                    }
                    Some(fault)
                }
                _ => None,
            }
        };
        let path = request.split(' ').nth(1).unwrap_or_default();
        let kind = path.strip_prefix("/datasets").unwrap_or(path);
        let file = kind.strip_prefix("/org/name/resolve/").and_then(|rest| {
            let (_, name) = rest.split_once('/')?;
            files.get(name)
        });
        if let Some(Fault::Status(code)) = fault {
            write!(stream, "HTTP/1.1 {code} No\r\nContent-Length: 0\r\n\r\n")?;
        } else if path.starts_with("/api/models/org/name/revision/")
            || path.starts_with("/api/datasets/org/name/revision/")
        {
            let mut names: Vec<&String> = files.keys().collect();
            names.sort();
            let siblings: Vec<String> =
                names.iter().map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
            let body = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", siblings.join(","));
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        } else if let (Some(file), Some(range)) = (file, range) {
            let (start, end) = range.split_once('-').unwrap();
            let start: usize = start.parse().unwrap();
            let end = end.parse().map_or(file.len(), |end: usize| end + 1);
            if is_download {
                state.lock().unwrap().ranges.push(start as u64);
            }
            if start >= file.len() {
                write!(stream, "HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            write!(
                stream,
                "HTTP/1.1 206 Partial\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\n\
                 ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n\r\n",
                end - start,
                end - 1,
                file.len(),
                etag(file)
            )?;
            let mut body = file[start..end].to_vec();
            match fault {
                Some(Fault::BreakAfter(len)) => return stream.write_all(&body[..len]),
                Some(Fault::StallAfter(len)) => {
                    stream.write_all(&body[..len])?;
                    // Until the client goes away.
                    return lines.next().transpose().map(|_| ());
                }
                Some(Fault::FlipByte(at)) => body[at] ^= 1,
                _ => {}
            }
            stream.write_all(&body)?;
        } else {
            write!(stream, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")?;
        }
    }
}
