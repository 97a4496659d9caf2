//! As much of D-Bus as a question to a service of the system bus takes: methods with strings as arguments, and what they
//! return. Source: the D-Bus Specification 0.43, <https://dbus.freedesktop.org/doc/dbus-specification.html>.
//!
//! Invariants: whatever the other side says is an answer or an error, never a panic; no message has more than
//! [`MAX_MESSAGE_BYTES`]; nothing is waited for longer than the connection's patience; buffers are used again.
//! What it deliberately does not do: signals, own objects, file descriptors, big-endian peers, buses of other machines.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A list of ten thousand units has some 3 MB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
const MAX_GREETING_BYTES: u64 = 4096;
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// The service is not to be started for this.
const NO_AUTO_START: u8 = 2;
/// Numbers of header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method with its arguments, all strings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    pub(crate) arguments: &'a [&'a str],
}

/// A connection to a bus.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
    sending: Vec<u8>,
    /// Header fields of the message that is read.
    fields: Vec<u8>,
}

/// What an answer is to, and whether it is an error of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) serial: u32,
    pub(crate) is_error: bool,
}

impl Connection {
    /// Signs in at the bus that listens at `socket` as the user of this process.
    pub(crate) fn open(socket: &Path, patience: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut this = Self { stream: BufReader::new(stream), serial: 0, sending: Vec::new(), fields: Vec::new() };
        let uid = rustix::process::getuid().as_raw().to_string();
        // Decimal digits in hexadecimal: each is 3 and itself.
        let hex: String = uid.chars().flat_map(|digit| ['3', digit]).collect();
        this.stream.get_mut().write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        (&mut this.stream).take(MAX_GREETING_BYTES).read_until(b'\n', &mut line)?;
        if !line.starts_with(b"OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the bus refuses this user"));
        }
        this.stream.get_mut().write_all(b"BEGIN\r\n")?;
        let hello = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            arguments: &[],
        };
        this.call(&hello, &mut Vec::new()).map_err(|error| match error.kind() {
            // dbus-daemon signs in whom it can't find, and then hangs up: <https://github.com/systemd/systemd/issues/22737>.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                let told = format!(
                    "the bus does not know user {uid}; a unit with `DynamicUser=` needs a system user of the name in `User=` (`useradd --system`)"
                );
                io::Error::new(io::ErrorKind::PermissionDenied, told)
            }
            _ => error,
        })?;
        Ok(this)
    }

    /// Calls a method; the body of its answer goes into `body`.
    pub(crate) fn call(&mut self, call: &Call<'_>, body: &mut Vec<u8>) -> io::Result<()> {
        let serial = self.send(call)?;
        self.flush()?;
        loop {
            let answer = self.receive(body)?;
            if answer.serial == serial {
                return if answer.is_error { Err(refusal(body)) } else { Ok(()) };
            }
        }
    }

    /// Puts a call into the queue; the number that its answer will have.
    pub(crate) fn send(&mut self, call: &Call<'_>) -> io::Result<u32> {
        self.serial = self.serial.checked_add(1).ok_or_else(|| io::Error::other("too many calls of one connection"))?;
        let mut body = Vec::new();
        for argument in call.arguments {
            put_string(&mut body, argument);
        }
        let out = &mut self.sending;
        // Alignment counts from the message's begin.
        let begin = out.len();
        out.extend_from_slice(&[b'l', METHOD_CALL, NO_AUTO_START, 1]);
        out.extend_from_slice(&size(body.len())?.to_le_bytes());
        out.extend_from_slice(&self.serial.to_le_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let fields_begin = out.len();
        let texts = [(PATH, b'o', call.path), (INTERFACE, b's', call.interface), (MEMBER, b's', call.member)];
        for (code, kind, text) in texts.into_iter().chain([(DESTINATION, b's', call.destination)]) {
            pad(out, begin, 8);
            out.extend_from_slice(&[code, 1, kind, 0]);
            out.extend_from_slice(&size(text.len())?.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        if !call.arguments.is_empty() {
            pad(out, begin, 8);
            let count = u8::try_from(call.arguments.len()).map_err(io::Error::other)?;
            out.extend_from_slice(&[SIGNATURE, 1, b'g', 0, count]);
            out.extend(std::iter::repeat_n(b's', call.arguments.len()));
            out.push(0);
        }
        let length = size(out.len() - fields_begin)?;
        if let Some(place) = out.get_mut(length_at..length_at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        pad(out, begin, 8);
        out.extend_from_slice(&body);
        Ok(self.serial)
    }

    /// Sends what is in the queue.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let result = self.stream.get_mut().write_all(&self.sending);
        self.sending.clear();
        result
    }

    /// The next answer to whichever call; its body goes into `body`.
    pub(crate) fn receive(&mut self, body: &mut Vec<u8>) -> io::Result<Answer> {
        loop {
            let mut head = [0; 16];
            self.stream.read_exact(&mut head)?;
            let mut reader = Reader::new(&head);
            let [order, kind, _, version] = reader.array()?;
            if (order, version) != (b'l', 1) {
                return Err(invalid("no little-endian message of version 1"));
            }
            let (body_bytes, _, field_bytes) = (reader.size()?, reader.u32()?, reader.size()?);
            if body_bytes.saturating_add(field_bytes) > MAX_MESSAGE_BYTES {
                return Err(invalid("a message that is too large"));
            }
            fill(&mut self.stream, &mut self.fields, field_bytes.next_multiple_of(8))?;
            fill(&mut self.stream, body, body_bytes)?;
            let fields = self.fields.get(..field_bytes).unwrap_or_default();
            if let (METHOD_RETURN | ERROR, Some(serial)) = (kind, reply_serial(fields)?) {
                return Ok(Answer { serial, is_error: kind == ERROR });
            }
        }
    }
}

/// Whom the message answers.
fn reply_serial(fields: &[u8]) -> io::Result<Option<u32>> {
    let mut reader = Reader::new(fields);
    let mut found = None;
    while !reader.is_at_end() {
        reader.align(8)?;
        let [code] = reader.array()?;
        match reader.signature()? {
            "u" if code == REPLY_SERIAL => found = Some(reader.u32()?),
            "u" => drop(reader.u32()?),
            "s" | "o" => drop(reader.string()?),
            "g" => drop(reader.signature()?),
            _ => return Err(invalid("a header field of an unknown type")),
        }
    }
    Ok(found)
}

/// What an error says; by custom its first argument is a text.
fn refusal(body: &[u8]) -> io::Error {
    let text = Reader::new(body).string().unwrap_or("no reason").chars().take(200).collect::<String>();
    io::Error::other(text)
}

fn fill(stream: &mut impl io::Read, into: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    into.clear();
    // The buffer grows with what comes, not with what was promised.
    if stream.take(bytes as u64).read_to_end(into)? < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    pad(out, 0, 4);
    // A longer one would be refused when its message is sent.
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn pad(out: &mut Vec<u8>, begin: usize, alignment: usize) {
    out.resize(begin + (out.len() - begin).next_multiple_of(alignment), 0);
}

fn size(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).map_err(io::Error::other)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the bus sent {what}"))
}

/// Values one after the other, as the specification marshals them.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Reads `body`, which begins aligned.
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { bytes: body, position: 0 }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.position >= self.bytes.len()
    }

    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.position.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.position..end));
        let taken = taken.ok_or_else(|| invalid("a message that ends too soon"))?;
        self.position += count;
        Ok(taken)
    }

    pub(crate) fn align(&mut self, alignment: usize) -> io::Result<()> {
        self.take(self.position.next_multiple_of(alignment) - self.position).map(drop)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(io::Error::other)
    }

    pub(crate) fn u32(&mut self) -> io::Result<u32> {
        self.align(4)?;
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> io::Result<u64> {
        self.align(8)?;
        self.array().map(u64::from_le_bytes)
    }

    /// A length; more than fits is more than there is.
    pub(crate) fn size(&mut self) -> io::Result<usize> {
        usize::try_from(self.u32()?).map_err(io::Error::other)
    }

    /// A string or the path of an object.
    pub(crate) fn string(&mut self) -> io::Result<&'a str> {
        let length = self.size()?;
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).or(Err(invalid("a text that is not UTF-8")))
    }

    pub(crate) fn signature(&mut self) -> io::Result<&'a str> {
        let [length] = self.array()?;
        let text = self.take(length.into())?;
        self.take(1)?;
        std::str::from_utf8(text).or(Err(invalid("a signature that is not UTF-8")))
    }

    /// A variant with a number in it.
    pub(crate) fn variant_number(&mut self) -> io::Result<u64> {
        match self.signature()? {
            "u" => self.u32().map(u64::from),
            "t" => self.u64(),
            _ => Err(invalid("something else than a number")),
        }
    }

    /// A variant with a text in it.
    pub(crate) fn variant_string(&mut self) -> io::Result<&'a str> {
        match self.signature()? {
            "s" => self.string(),
            _ => Err(invalid("something else than a text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// As dbus-daemon 1.14 does with a user of `DynamicUser=`.
    #[test]
    fn a_bus_that_hangs_up_after_signing_in_tells_which_user_it_lacks() {
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("bus");
        let listener = UnixListener::bind(&socket).expect("socket");
        let bus = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").expect("answer");
            // Without its call being read the client gets a reset instead of an end.
            let mut said = Vec::new();
            let mut byte = [0];
            while !said.ends_with(b"BEGIN\r\n") && stream.read_exact(&mut byte).is_ok() {
                said.extend(byte);
            }
        });
        let error = Connection::open(&socket, Duration::from_mins(1)).expect_err("it hung up");
        bus.join().expect("bus");
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains(&format!("does not know user {uid};")), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), valid in 0usize..5) {
            let (ours, mut theirs) = UnixStream::pair().expect("sockets");
            ours.set_read_timeout(Some(Duration::from_millis(100))).expect("time limit");
            let begin: &[u8] = &[b'l', METHOD_RETURN, 0, 1, 9];
            theirs.write_all(begin.get(..valid).expect("few")).expect("write");
            theirs.write_all(&bytes).expect("write");
            drop(theirs);
            let mut connection =
                Connection { stream: BufReader::new(ours), serial: 0, sending: Vec::new(), fields: Vec::new() };
            let mut body = Vec::new();
            while connection.receive(&mut body).is_ok() {}
            let mut reader = Reader::new(&bytes);
            while reader.variant_number().is_ok() || reader.string().is_ok() || reader.variant_string().is_ok() {}
        }
    }
}
