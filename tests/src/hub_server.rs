//! A small HTTP server that imitates the parts of the Hub that are used: a model's listing, `resolve` with its redirect to
//! another origin for large files (and to a path on the same one for small files), and that origin with ranges.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use sha2::{Digest, Sha256};

/// The only model that there is.
pub const ID: &str = "owner/model";
/// Its only commit, of its only branch `main`.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// So that a client that repeats itself for ever fails a test instead of hanging it.
const MOST_REQUESTS: usize = 300;

/// What goes wrong at one request for a file's content.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// One byte is another.
    Corrupt,
    /// This status instead.
    Status(u16),
    /// A range is asked for, but everything is sent.
    IgnoreRange,
    /// A part from another place than asked for.
    WrongRange,
    /// `Content-Length` is this much too large or too small; so is the body.
    Longer(i64),
    /// Without `Content-Length`, and with a byte too many.
    Unbounded,
    /// So many bytes, and then silence.
    Stall(usize),
    /// The connection ends without an answer.
    HangUp,
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// The header.
    pub range: Option<String>,
    /// The header `Authorization`.
    pub token: Option<String>,
    /// Came to the origin for large files.
    pub storage: bool,
}

/// What the server has and does; change it at any time.
#[derive(Default)]
pub struct State {
    /// Path → content.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Path of a file → what goes wrong at its next requests.
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    /// Statuses of the next listings.
    pub listing_faults: VecDeque<u16>,
    /// Instead of the listing.
    pub listing: Option<String>,
    /// Only with this token.
    pub secret: Option<String>,
    /// Path of a file → the ETag and size that are told about it.
    pub lies: BTreeMap<String, (String, usize)>,
    /// The listing does not tell sizes.
    pub no_sizes: bool,
    /// Since they were last asked for.
    pub requests: Vec<Request>,
}

/// Answers until it is dropped.
pub struct Server {
    state: Arc<Mutex<State>>,
    ports: [u16; 2],
    threads: Vec<JoinHandle<()>>,
}

/// In hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// Weights are in large-file storage.
pub fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".pth"]
        .iter()
        .any(|e| name.ends_with(e))
}

/// The name of a content: its SHA-256 in large-file storage, else something as long as git's hash.
pub fn etag(name: &str, content: &[u8]) -> String {
    let hash = sha256(content);
    if is_large(name) {
        hash
    } else {
        hash[..40].to_owned()
    }
}

/// All files of a folder, by their paths in it with `/`.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            let inner = files(&path).into_iter();
            found.extend(inner.map(|(inner, content)| (format!("{name}/{inner}"), content)));
        } else {
            found.insert(name.into_owned(), std::fs::read(path).unwrap());
        }
    }
    found
}

/// The address of a server that is not there: its port was free a moment ago.
pub fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Keeps the settings of whoever runs the tests from a program, and says where its models come from and go to.
pub fn isolate<'a>(command: &'a mut Command, endpoint: &str, home: &Path) -> &'a mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_uppercase();
        let ours = ["HF_", "HUGGING", "TRANSFORMERS_"];
        if ours.iter().any(|o| text.starts_with(o)) || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home)
}

impl Server {
    /// Serves these files.
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let state = Arc::new(Mutex::new(State {
            files,
            ..State::default()
        }));
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.each_ref().map(|l| l.local_addr().unwrap().port());
        let threads = listeners.into_iter().enumerate().map(|(i, listener)| {
            let state = state.clone();
            spawn(move || {
                for _ in 0..MOST_REQUESTS {
                    let Ok((stream, _)) = listener.accept() else {
                        return;
                    };
                    let state = state.clone();
                    // The end of a connection needs no answer. The end of the test sends a request without a path.
                    if let Some(request) = Request::read(&stream, i == 1) {
                        if request.path == "/quit" {
                            return;
                        }
                        spawn(move || answer(stream, &request, &state, ports[1]));
                    }
                }
            })
        });
        let threads = threads.collect();
        Self {
            state,
            ports,
            threads,
        }
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// To look at and to change; nothing is answered meanwhile.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What goes wrong at the next requests for a file's content.
    pub fn fail(&self, name: &str, faults: &[Fault]) {
        let faults = faults.iter().copied().collect();
        self.state().faults.insert(name.to_owned(), faults);
    }

    /// Requests so far; forgets them.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// Ranges of the requests for a file's content in large-file storage.
    pub fn ranges(&self, name: &str) -> Vec<Option<String>> {
        let state = self.state();
        let of = state
            .requests
            .iter()
            .filter(|r| r.storage && r.path.starts_with(&format!("/{name}?")));
        of.map(|r| r.range.clone()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for port in self.ports {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let _ = stream.write_all(b"GET /quit HTTP/1.1\r\n\r\n");
            }
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Request {
    fn read(stream: &TcpStream, storage: bool) -> Option<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next()?.ok()?;
        let mut words = first.split(' ');
        let mut request = Self {
            method: words.next()?.to_owned(),
            path: words.next()?.to_owned(),
            range: None,
            token: None,
            storage,
        };
        for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            match name.to_ascii_lowercase().as_str() {
                "range" => request.range = Some(value.to_owned()),
                "authorization" => request.token = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(request)
    }
}

fn answer(mut stream: TcpStream, request: &Request, state: &Mutex<State>, storage: u16) {
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let path = request.path.split('?').next().unwrap();
    let head = |status: u16, headers: &str, length: usize| {
        format!(
            "HTTP/1.1 {status} Any\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        )
    };
    let mut plain = |status: u16, headers: &str, body: &str| {
        let body = if request.method == "HEAD" { "" } else { body };
        let _ = stream.write_all((head(status, headers, body.len()) + body).as_bytes());
    };
    let allowed = |state: &State| {
        let wanted = state.secret.as_ref().map(|s| format!("Bearer {s}"));
        wanted.is_none() || wanted == request.token
    };
    if !request.storage && !allowed(&state) {
        return plain(401, "x-error-code: GatedRepo\r\n", "no");
    }
    let listed = ["main", COMMIT].map(|revision| format!("/api/models/{ID}/revision/{revision}"));
    if listed.iter().any(|l| l == path) && !request.storage {
        return match (state.listing_faults.pop_front(), &state.listing) {
            (Some(status), _) => plain(status, "", "sorry"),
            (None, Some(listing)) => plain(200, "", listing),
            (None, None) => plain(200, "", &listing(&state)),
        };
    }
    let resolve = [COMMIT, "main"].map(|revision| format!("/{ID}/resolve/{revision}/"));
    let small = format!("/api/resolve-cache/models/{ID}/{COMMIT}/");
    let of = |state: &State, name: &str| {
        let content = state.files.get(name)?.clone();
        let (etag, size) = state
            .lies
            .get(name)
            .cloned()
            .unwrap_or((etag(name, &content), content.len()));
        Some((content, etag, size))
    };
    let resolved = resolve.iter().find_map(|r| path.strip_prefix(r.as_str()));
    if let Some(name) = resolved.filter(|_| !request.storage) {
        let Some((_, etag, size)) = of(&state, name) else {
            return plain(404, "x-error-code: EntryNotFound\r\n", "Entry not found");
        };
        let headers = if is_large(name) {
            format!(
                "location: http://127.0.0.1:{storage}/{name}?signature=x\r\nx-linked-etag: \"{etag}\"\r\n\
                 x-linked-size: {size}\r\nx-repo-commit: {COMMIT}\r\n"
            )
        } else {
            format!("location: {small}{name}\r\nx-repo-commit: {COMMIT}\r\n")
        };
        return plain(
            if is_large(name) { 302 } else { 307 },
            &headers,
            "Redirecting",
        );
    }
    let name = if request.storage {
        path.strip_prefix('/')
    } else {
        path.strip_prefix(&small)
    };
    let Some((name, (content, etag, size))) = name.and_then(|n| Some((n, of(&state, n)?))) else {
        return plain(
            404,
            "x-error-code: RepoNotFound\r\n",
            "Repository not found",
        );
    };
    if request.method == "HEAD" {
        let headers = format!("etag: W/\"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n");
        let _ = stream.write_all(head(200, &headers, size).as_bytes());
        return;
    }
    let fault = state.faults.get_mut(name).and_then(VecDeque::pop_front);
    drop(state);
    send(stream, request, content, fault);
}

/// A file's content, or what the fault makes of it.
fn send(mut stream: TcpStream, request: &Request, mut content: Vec<u8>, fault: Option<Fault>) {
    if matches!(fault, Some(Fault::HangUp)) {
        return;
    }
    let total = content.len();
    let asked = request.range.as_ref().map_or(0, |r| {
        r.strip_prefix("bytes=")
            .unwrap()
            .strip_suffix('-')
            .unwrap()
            .parse()
            .unwrap()
    });
    let mut start: usize = if matches!(fault, Some(Fault::IgnoreRange)) {
        0
    } else {
        asked
    };
    if matches!(fault, Some(Fault::WrongRange)) {
        start += 1;
    }
    if let Some(Fault::Corrupt) = fault {
        content[total - 1] ^= 1;
    }
    let mut body = content.split_off(start.min(total));
    if let Some(Fault::Longer(by)) = fault {
        body.resize(body.len().saturating_add_signed(by as isize), 0);
    }
    let status = match fault {
        Some(Fault::Status(status)) => status,
        _ if start >= total && start > 0 => 416,
        _ if start > 0 => 206,
        _ => 200,
    };
    let mut head = format!("HTTP/1.1 {status} Any\r\nconnection: close\r\n");
    if status == 206 {
        write!(
            head,
            "content-range: bytes {start}-{}/{total}\r\n",
            total - 1
        )
        .unwrap();
    }
    if let Some(Fault::Unbounded) = fault {
        body.push(0);
    } else {
        write!(head, "content-length: {}\r\n", body.len()).unwrap();
    }
    head += "\r\n";
    if let Some(Fault::Cut(n) | Fault::Stall(n)) = fault {
        body.truncate(n);
    }
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
    if let Some(Fault::Stall(_)) = fault {
        let _ = stream.flush();
        sleep(Duration::from_secs(3));
    }
}

fn listing(state: &State) -> String {
    let files = state
        .files
        .iter()
        .map(|(name, content)| match state.no_sizes {
            true => format!(r#"{{"rfilename":"{name}"}}"#),
            false => format!(r#"{{"rfilename":"{name}","size":{}}}"#, content.len()),
        });
    let files: Vec<_> = files.collect();
    format!(
        r#"{{"id":"{ID}","sha":"{COMMIT}","siblings":[{}]}}"#,
        files.join(",")
    )
}
