//! A line on which answers are changed: a relay before a real server of this host, for what no
//! server can be made to say (an old version, another time). Shared by path between test binaries,
//! so it needs std only.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

/// Changes what a server sends, a part of it at a time; never its length.
pub(crate) type Change = dyn Fn(&mut [u8]) + Send + Sync;

/// Relays to a port of this host for as long as the test runs; its own port.
pub(crate) fn relay(upstream: u16, change: impl Fn(&mut [u8]) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let change: Arc<Change> = Arc::new(change);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
            let clone = |stream: &TcpStream| stream.try_clone().expect("the same socket");
            let (from, to) = (clone(&client), clone(&server));
            std::thread::spawn(move || copy(from, to, &|_| {}));
            let change = Arc::clone(&change);
            std::thread::spawn(move || copy(server, client, &*change));
        }
    });
    port
}

fn copy(mut from: TcpStream, mut to: TcpStream, change: &Change) {
    let mut bytes = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        change(&mut bytes[..length]);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Writes `new` over what follows each `mark`.
pub(crate) fn write_after(bytes: &mut [u8], mark: &[u8], new: &[u8]) {
    let places = bytes.windows(mark.len()).enumerate().filter(|(_, it)| *it == mark);
    let places: Vec<usize> = places.map(|(at, _)| at + mark.len()).collect();
    for at in places {
        if let Some(old) = bytes.get_mut(at..at + new.len()) {
            old.copy_from_slice(new);
        }
    }
}
