//! A line on which an etcd's user has no right to some calls: a relay before a real server of this
//! host that answers those calls itself, as releases do that the distribution does not have.

use std::sync::Arc;

use h2::{RecvStream, SendStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::bytes::Bytes;
use tonic::Status;

/// What etcd says then.
const NO_RIGHT: &str = "etcdserver: permission denied";

/// Relays to a port of this host for as long as the test runs; its own port. `calls` are named as
/// gRPC does, `/etcdserverpb.Cluster/MemberList`.
pub(crate) async fn refusing(upstream: u16, calls: &[&str]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let calls: Arc<[String]> = calls.iter().map(|call| (*call).to_owned()).collect();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, upstream, Arc::clone(&calls)));
        }
    });
    port
}

/// One connection, until either side ends it.
async fn serve(client: TcpStream, upstream: u16, calls: Arc<[String]>) -> Result<(), h2::Error> {
    let mut asked = h2::server::handshake(client).await?;
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return Ok(()) };
    let (server, connection) = h2::client::handshake(server).await?;
    tokio::spawn(connection);
    while let Some(call) = asked.accept().await {
        let (request, mut answer) = call?;
        if calls.iter().any(|it| it == request.uri().path()) {
            let refusal = Status::permission_denied(NO_RIGHT).into_http::<()>();
            answer.send_response(refusal, true)?;
            continue;
        }
        let server = server.clone();
        tokio::spawn(async move {
            let mut question = None;
            let request = request.map(|body| question = Some(body));
            let (response, up) = server.ready().await?.send_request(request, false)?;
            if let Some(question) = question {
                tokio::spawn(copy(question, up));
            }
            let mut said = None;
            let response = response.await?.map(|body| said = Some(body));
            let ends = said.as_ref().is_none_or(RecvStream::is_end_stream);
            let down = answer.send_response(response, ends)?;
            match said.filter(|_| !ends) {
                Some(said) => copy(said, down).await,
                None => Ok(()),
            }
        });
    }
    Ok(())
}

async fn copy(mut from: RecvStream, mut to: SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(bytes) = from.data().await {
        let bytes = bytes?;
        from.flow_control().release_capacity(bytes.len())?;
        to.send_data(bytes, false)?;
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(Bytes::new(), true),
    }
}
