//! The suite of every store on a real etcd, then what only etcd has: its layout, its leases, its
//! errors, and a network that loses, holds and cuts.

#[path = "../../../../tests/support/certs.rs"]
mod certs;
#[path = "../../../../tests/support/proxy.rs"]
mod proxy;
#[path = "../../../../tests/support/etcd.rs"]
mod server;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, PutOptions};
use stormlock_protocol::message::Level;
use stormlock_protocol::name::{Fence, UnixMs};

use super::super::contract::{self, Others, Site, claim, granted, proof, resource, ttl};
use super::keys::{LOCK, Part};
use super::*;
use crate::clock;
use certs::Certificates;
use proxy::{Fault, Proxy};
use server::EtcdServer;

struct Real {
    server: EtcdServer,
    prefix: &'static str,
}

impl Real {
    fn start(prefix: &'static str) -> Real {
        Real { server: EtcdServer::start(), prefix }
    }

    fn key(&self, on: &Resource, ending: &str) -> String {
        format!("{}{on}{ending}", self.prefix)
    }

    async fn put(&self, key: String, value: impl Into<Vec<u8>>, lease: i64) {
        let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
        raw(&self.server).await.kv_client().put(key, value, options).await.expect("a put");
    }
}

impl Site for Real {
    fn open(&self) -> Arc<dyn Backend> {
        let key_prefix = self.prefix.to_owned();
        Arc::new(Etcd::new(&Options { key_prefix, ..options(&self.server.url()) }).unwrap())
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(self)
    }
}

impl Others for Real {
    fn lock<'a>(&'a self, on: &'a Resource, lease: LeaseId, ttl: Option<Ttl>) -> Pending<'a, ()> {
        Box::pin(async move {
            let number = keys::number(lease).expect("a narrow id");
            let mut hangs_on = 0;
            if let Some(ttl) = ttl {
                let options = Some(LeaseGrantOptions::new().with_id(number));
                let secs = i64::from(ttl.as_secs());
                let mut client = raw(&self.server).await.lease_client();
                client.grant(secs, options).await.expect("a lease");
                hangs_on = number;
            }
            self.put(self.key(on, "/id"), keys::hex(number), hangs_on).await;
            self.put(self.key(on, "/p"), "py@other", hangs_on).await;
            self.put(self.key(on, "/c"), keys::created(clock::wall()), hangs_on).await;
            Ok(())
        })
    }

    fn litter<'a>(&'a self, on: &'a [Resource]) -> Pending<'a, ()> {
        Box::pin(async move {
            let litter: [&[(&str, &[u8])]; 6] = [
                &[("/id", b"x")],
                &[("/id", b""), ("/p", b"maria"), ("/c", &[0; 8])],
                &[("/id", b"00ff"), ("/p", b"maria"), ("/c", &[0; 8])],
                &[("/id", b"ff"), ("/c", &[0; 8])],
                &[("/id", b"ff"), ("/p", b"maria"), ("/c", b"soon")],
                &[("/r", b"somebody's")],
            ];
            assert_eq!(litter.len(), on.len());
            for (keys, on) in litter.iter().zip(on) {
                for (ending, value) in *keys {
                    self.put(self.key(on, ending), *value, 0).await;
                }
            }
            Ok(())
        })
    }

    fn dump<'a>(&'a self, on: &'a Resource) -> Pending<'a, String> {
        Box::pin(async move {
            let keys = Keys::new(self.prefix, on);
            let mut client = raw(&self.server).await.kv_client();
            let mut dump = String::new();
            for part in LOCK {
                let found = client.get(keys.of(part), None).await.expect("a get");
                dump.push_str(&format!("{:?}\n", found.kvs()));
            }
            Ok(dump)
        })
    }
}

/// The server without our backend in between.
async fn raw(server: &EtcdServer) -> Client {
    Client::connect([server.url()], None).await.expect("the server")
}

fn options(url: &str) -> Options {
    Options {
        endpoints: vec![url.to_owned()],
        login: None,
        key_prefix: PREFIX.to_owned(),
        ca_file: None,
        client_cert: None,
    }
}

fn open(url: &str) -> Etcd {
    Etcd::new(&options(url)).unwrap()
}

fn through(proxy: &Proxy) -> Etcd {
    open(&format!("http://127.0.0.1:{}", proxy.port()))
}

contract::contract!(Real::start(PREFIX));
contract::contract_with_others!(Real::start(PREFIX));

mod without_a_prefix {
    use super::*;

    contract::contract!(Real::start(""));
    contract::contract_with_others!(Real::start(""));
}
