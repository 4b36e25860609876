use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use interprocess::os::unix::uds_local_socket::tokio::Stream as PathStream;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock;

/// Far longer than anything here takes.
const LINGER: Duration = Duration::from_secs(60);

/// A socket that takes so long to close, and its peer, which reads nothing until it is told to.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    while near.write(&[0; 65_536]).is_ok() {}
    sockopt::set_socket_linger(&near, Some(LINGER)).unwrap();
    (near, far)
}

/// Both ends of a connection, the agent's first.
fn pair() -> (Stream, StdStream) {
    let (near, far) = StdStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let near = UnixStream::from_std(near).unwrap();
    (Stream::new(LocalStream::UdSocket(PathStream::from(near))), far)
}

fn send(socket: &StdStream, bytes: &[u8], file: TcpStream, flags: SendFlags) {
    let files = [file.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    assert!(along.push(SendAncillaryMessage::ScmRights(&files)));
    assert_eq!(sendmsg(socket, &[IoSlice::new(bytes)], &mut along, flags).unwrap(), bytes.len());
}

/// Runs `test` where the loop of the agent runs; the file is closed at the end, and long before it
/// would be if anybody waited for it.
fn without_waiting(test: impl AsyncFnOnce(TcpStream)) {
    let begun = clock::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (near, mut far) = lingering();
    runtime.block_on(test(near));
    let passed = begun.until(clock::now());
    assert!(passed < LINGER / 2, "held up for {passed:?}");
    // Its end comes when it is closed, which is waited for elsewhere.
    far.set_read_timeout(Some(LINGER / 2)).unwrap();
    far.read_to_end(&mut Vec::new()).expect("the file is closed");
}

#[test]
fn a_file_that_is_sent_along_ends_the_session_and_holds_up_nobody() {
    without_waiting(async |file| {
        let (mut stream, client) = pair();
        send(&client, b"hello", file, SendFlags::empty());
        for _ in 0..2 {
            let error = stream.read_u8().await.expect_err("there is more than bytes");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    });
}

#[test]
fn a_file_that_comes_while_others_bytes_are_read_is_not_taken() {
    without_waiting(async |file| {
        let (mut stream, mut client) = pair();
        client.write_all(b"hello").unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'h');
        send(&client, b"!", file, SendFlags::empty());
        let error = stream.read_to_end(&mut Vec::new()).await.expect_err("a file");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    });
}

#[test]
fn a_file_with_an_urgent_byte_holds_up_nobody_either() {
    without_waiting(async |file| {
        let (mut stream, mut client) = pair();
        send(&client, b"!", file, SendFlags::OOB);
        client.write_all(b"hello").unwrap();
        let error = stream.read_u8().await.expect_err("there is more than bytes");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    });
}

#[test]
fn a_file_that_nobody_reads_holds_up_nobody() {
    for gone in [false, true] {
        without_waiting(async |file| {
            let (mut stream, mut client) = pair();
            client.write_all(&[0; 3 * LEFT]).unwrap();
            send(&client, b"!", file, SendFlags::empty());
            stream.write_all(b"too many").await.unwrap();
            // Whether it hears the end of that is its own affair: what it sent may reset the line.
            let client = (!gone).then_some(client);
            drop(stream);
            drop(client);
        });
    }
}

#[test]
fn bytes_alone_come_as_they_were_sent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut stream, mut client) = pair();
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
        let expected = sent.clone();
        let sending = std::thread::spawn(move || client.write_all(&sent));
        let mut came = Vec::new();
        stream.read_to_end(&mut came).await.unwrap();
        sending.join().unwrap().unwrap();
        assert!(came == expected);
    });
}
