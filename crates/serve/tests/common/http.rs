//! One HTTP request on one connection.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The status line and the headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Sends a request and reads the answer: by its length, or to the end of the connection.
pub(crate) fn send(address: &str, request: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a body early may close before it has read all of it.
    let _ = stream.write_all(body);
    read(stream)
}

fn read(mut stream: TcpStream) -> Answer {
    let (mut bytes, mut block) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        if let Some(answer) = whole(&bytes) {
            return answer;
        }
        match stream.read(&mut block) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&block[..n]),
            end => panic!("{end:?} after {}", String::from_utf8_lossy(&bytes)),
        }
    }
}

/// The answer, once its head and as many bytes as it announces are there.
fn whole(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.map_or(0, |length| length.trim().parse().unwrap());
    let body = bytes[end + 4..].to_vec();
    let status = head.split(' ').nth(1)?.parse().unwrap();
    (body.len() >= length).then_some(Answer { status, head, body })
}
