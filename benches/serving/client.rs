//! A small HTTP client over one kept connection. It does nothing that the load does not need, so that asking costs little.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

/// A connection that is kept from request to request.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes that were read and belong to no reply yet.
    buffer: Vec<u8>,
}

/// A server's reply.
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// The status line and the headers.
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The value of the header `name`, which is written in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub(crate) fn json(&self) -> serde_json::Result<Value> {
        serde_json::from_slice(&self.body)
    }

    /// `error_type` of an error's body.
    pub(crate) fn error_type(&self) -> Option<String> {
        Some(self.json().ok()?.get("error_type")?.as_str()?.to_owned())
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends a request and reads its reply.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Reply> {
        self.send(request).await?;
        self.reply().await
    }

    pub(crate) async fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) async fn reply(&mut self) -> Result<Reply> {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                break String::from_utf8_lossy(&std::mem::replace(&mut self.buffer, rest)).into_owned();
            }
            self.read().await?;
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, head.clone()))?;
        let mut reply = Reply { status, head, body: Vec::new() };
        let length = reply.header("content-length").and_then(|length| length.parse().ok());
        let length: usize = length.ok_or_else(|| Error::new(ErrorKind::InvalidData, "a reply without a length"))?;
        while self.buffer.len() < length {
            self.read().await?;
        }
        let rest = self.buffer.split_off(length);
        reply.body = std::mem::replace(&mut self.buffer, rest);
        Ok(reply)
    }

    /// Whether the server sent more than the replies that were read.
    pub(crate) fn has_more(&self) -> bool {
        !self.buffer.is_empty() || matches!(self.stream.try_read(&mut [0; 1]), Ok(1))
    }

    async fn read(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.buffer.extend_from_slice(&bytes[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The bytes of a request with a JSON body.
pub(crate) fn request(method: &str, path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    (head + &body).into_bytes()
}

/// The bytes of a `GET`.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// Sends bytes over a connection of their own, and reads the reply's status and all that follows until the server closes the
/// connection, or until the reply is whole. `None` if the server closes the connection without a reply. It blocks.
pub(crate) fn once(address: SocketAddr, bytes: &[u8], longest: Duration) -> Result<Option<(u16, String)>> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(longest))?;
    stream.set_write_timeout(Some(longest))?;
    // A server may refuse a request before it has read all of it.
    let sent = stream.write_all(bytes);
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            if length.is_some_and(|length: usize| body.len() >= length) {
                break;
            }
        }
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => read.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
    }
    let text = String::from_utf8_lossy(&read).into_owned();
    match text.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        Some(status) => Ok(Some((status, text))),
        None if read.is_empty() => sent.map(|()| None).or(Ok(None)),
        None => Err(Error::new(ErrorKind::InvalidData, text)),
    }
}
