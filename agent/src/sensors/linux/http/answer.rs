//! An answer of HTTP/1.1, read as it comes: known length, chunks, or up to the end.

use std::io::{self, Read, Write};

use super::HttpError;

const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_CHUNK_LINE_BYTES: usize = 64;
const PIECE_BYTES: usize = 16 << 10;

/// What a server answered.
pub(crate) struct Reply {
    /// 200 for whoever is not in [`super`].
    pub(super) status: u16,
    pub(crate) body: Vec<u8>,
    /// Empty where the server does not tell.
    pub(crate) content_type: String,
    /// Whether the server takes another request on the connection.
    pub(crate) is_kept: bool,
}

/// Sends `request` and reads the answer, which has at most `max` bytes.
pub(super) fn exchange(stream: &mut (impl Read + Write), request: &str, max: usize) -> Result<Reply, HttpError> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    // What is not understood yet: a head, or what of a body has come.
    let mut pending = Vec::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut head: Option<Head> = None;
    let mut body = Vec::new();
    loop {
        while head.is_none()
            && let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let found = Head::read(pending.get(..end).unwrap_or_default()).ok_or(HttpError::Malformed)?;
            pending.drain(..end + 4);
            // After an interim answer the real one follows.
            if !(100..200).contains(&found.status) {
                head = Some(found);
            }
        }
        if let Some(head) = &mut head {
            // Nobody reads it, and it may never end.
            if head.status != 200 && matches!(head.length, Length::UntilEnd) {
                break;
            }
            if head.take(&mut pending, &mut body, max)? == Progress::Complete {
                break;
            }
        } else if pending.len() > MAX_HEAD_BYTES {
            return Err(HttpError::Malformed);
        }
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => pending.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Many devices end TLS without saying so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
    }
    match head {
        Some(Head { status, length: Length::UntilEnd, content_type, .. }) => {
            Ok(Reply { status, body, content_type, is_kept: false })
        }
        Some(Head { status, length: Length::Known(0), content_type, is_kept }) => {
            Ok(Reply { status, body, content_type, is_kept })
        }
        _ => Err(HttpError::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

struct Head {
    status: u16,
    length: Length,
    content_type: String,
    is_kept: bool,
}

/// What of a body is still to come.
enum Length {
    /// So many bytes.
    Known(usize),
    /// Chunks, of the one at hand so many bytes with the line's end behind it; 0 before the next one's length.
    Chunked(usize),
    UntilEnd,
}

#[derive(PartialEq, Eq)]
enum Progress {
    Partial,
    Complete,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let first = lines.next()?;
        let status = first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let (mut length, mut content_type) = (Length::UntilEnd, String::new());
        let mut is_kept = first.starts_with("HTTP/1.1 ");
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
                length = Length::Chunked(0);
            } else if name.eq_ignore_ascii_case("content-length") && !matches!(length, Length::Chunked(_)) {
                length = Length::Known(value.parse().ok()?);
            } else if name.eq_ignore_ascii_case("content-type") {
                value.clone_into(&mut content_type);
            } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
                is_kept = false;
            }
        }
        Some(Self { status, length, content_type, is_kept })
    }

    /// Moves what has come of the body from `pending` to `body`.
    fn take(&mut self, pending: &mut Vec<u8>, body: &mut Vec<u8>, max: usize) -> Result<Progress, HttpError> {
        let has_room = |body: &[u8], more: usize| match body.len().checked_add(more) {
            Some(all) if all <= max => Ok(()),
            _ => Err(HttpError::TooLong { max }),
        };
        match &mut self.length {
            Length::UntilEnd => {
                has_room(body, pending.len())?;
                body.append(pending);
                Ok(Progress::Partial)
            }
            Length::Known(left) => {
                has_room(body, *left)?;
                let count = pending.len().min(*left);
                body.extend(pending.drain(..count));
                *left -= count;
                Ok(if *left == 0 { Progress::Complete } else { Progress::Partial })
            }
            Length::Chunked(left) => {
                let mut at = 0;
                loop {
                    let rest = pending.get(at..).unwrap_or_default();
                    if *left > 0 {
                        let count = rest.len().min(*left);
                        // The line's end behind a chunk is no part of it.
                        let content = count.min(left.saturating_sub(2));
                        body.extend_from_slice(rest.get(..content).unwrap_or_default());
                        *left -= count;
                        at += count;
                        if *left > 0 {
                            break;
                        }
                        continue;
                    }
                    let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
                        if rest.len() > MAX_CHUNK_LINE_BYTES {
                            return Err(HttpError::Malformed);
                        }
                        break;
                    };
                    let line =
                        std::str::from_utf8(rest.get(..end).unwrap_or_default()).or(Err(HttpError::Malformed))?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let size = usize::from_str_radix(size, 16).or(Err(HttpError::Malformed))?;
                    has_room(body, size)?;
                    if size == 0 {
                        self.length = Length::Known(0);
                        return Ok(Progress::Complete);
                    }
                    at += end + 2;
                    *left = size + 2;
                }
                pending.drain(..at);
                Ok(Progress::Partial)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes, some bytes at a time.
    struct Answer(&'static [u8], usize);

    impl Read for Answer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    impl Write for Answer {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn answers_of_every_length_are_read_in_pieces() {
        let told = |answer: &'static [u8]| {
            let outcomes = [1, 3, 4096].map(|piece| {
                let reply = exchange(&mut Answer(answer, piece), "", 10).map_err(|error| error.to_string())?;
                let body = String::from_utf8(reply.body).expect("text");
                if reply.status == 200 { Ok(body) } else { Err(format!("the status is {}", reply.status)) }
            });
            assert_eq!(outcomes[0], outcomes[1]);
            assert_eq!(outcomes[0], outcomes[2]);
            outcomes[0].clone()
        };
        let ok = |body: &str| Ok(body.to_owned());
        assert_eq!(told(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd"), ok("abc"));
        assert_eq!(told(b"HTTP/1.0 200 OK\r\n\r\nabcd"), ok("abcd"));
        assert_eq!(told(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"), ok("abc"));
        assert_eq!(told(b"HTTP/1.1 503 Busy\r\n\r\n"), Err("the status is 503".to_owned()));
        let long = Err("the answer has more than 10 bytes".to_owned());
        assert_eq!(told(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"), long);
        assert_eq!(told(b"HTTP/1.1 200 OK\r\n\r\n01234567890"), long);
        assert_eq!(told(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n"), long);
        assert!(told(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").is_err());
        assert_eq!(told(b"SSH-2.0-x\r\n\r\n"), Err("the answer is no HTTP".to_owned()));
    }
}
