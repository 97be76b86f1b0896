//! Serves the connections of the port: HTTP/1 and HTTP/2, as the client begins. Answers that their client
//! does not take end after a while on both.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::serve::Listener as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http2_answer::{self, Http2Answers};
use super::port::Port;

/// How long a client may take nothing of its answer before the answer ends, and with HTTP/1 the connection
/// (`TCP_USER_TIMEOUT`).
const STALLED_FOR: Duration = Duration::from_secs(30);

/// How much unsent data of a connection may wait in the kernel, in bytes (`TCP_NOTSENT_LOWAT`).
#[cfg(target_os = "linux")]
const UNSENT_MAX: u32 = 128 * 1024;

/// Serves until `stopping` is cancelled, and then until the requests in flight are answered. `answer` answers a
/// request of a peer.
pub(super) async fn serve<A, F>(mut port: Port, answer: A, stopping: CancellationToken)
where
    A: Fn(SocketAddr, Request) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let connections = TaskTracker::new();
    while let Some((stream, peer)) = stopping.run_until_cancelled(port.accept()).await {
        set_options(&stream);
        let answer = answer.clone();
        let of_peer = move |request| answer(peer, request);
        let stopping = stopping.clone();
        connections.spawn(connection(stream, of_peer, stopping, STALLED_FOR));
    }
    drop(port);
    connections.close();
    connections.wait().await;
}

/// Serves one connection. An answer ends when its client has taken nothing of it for `stalled_for`.
async fn connection<A, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: A,
    stopping: CancellationToken,
    stalled_for: Duration,
) where
    A: Fn(Request) -> F + Send,
    F: Future<Output = Response> + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answered = answer(request.map(Body::new));
        async move { Ok::<_, Infallible>(http2_answer::timed(answered.await)) }
    });
    let builder = Builder::new(Http2Answers { stalled_for });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::trace!(error, "connection: ended early");
    }
}

/// Sets the options of a connection. Errors are ignored: the service works without the options.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // An answer is one small packet: Nagle's algorithm would only delay it.
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        // A client that reads nothing is disconnected, and until then costs the kernel little memory.
        let _ = socket.set_tcp_user_timeout(Some(STALLED_FOR));
        let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::Router;
    use axum::body::Bytes;
    use axum::http::Request;
    use axum::routing::get;
    use futures_util::{StreamExt as _, stream};
    use h2::client::SendRequest;
    use h2::{Reason, RecvStream};
    use proptest::prelude::*;
    use tower::ServiceExt as _;

    use super::*;

    /// Long enough for a client that reads, also on a busy machine.
    const STALLED_FOR: Duration = Duration::from_secs(1);

    /// A client of a connection to these routes, with this window for each answer.
    async fn client(router: Router, window: u32) -> SendRequest<Bytes> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let answer = move |request| {
            let answered = router.clone().oneshot(request);
            async { answered.await.expect("a router answers") }
        };
        tokio::spawn(connection(theirs, answer, CancellationToken::new(), STALLED_FOR));
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        let (requests, connection) = builder.handshake(ours).await.expect("HTTP/2");
        tokio::spawn(connection);
        requests
    }

    async fn body(requests: &SendRequest<Bytes>, path: &str) -> RecvStream {
        let request = Request::get(format!("http://customers.test{path}")).body(()).expect("a URL");
        let mut requests = requests.clone().ready().await.expect("the connection is open");
        let (response, _) = requests.send_request(request, true).expect("a request");
        response.await.expect("a response").into_body()
    }

    /// Reads the body to its end.
    async fn whole(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
        let mut read = vec![];
        while let Some(bytes) = body.data().await.transpose()? {
            body.flow_control().release_capacity(bytes.len())?;
            read.extend_from_slice(&bytes);
        }
        Ok(read)
    }

    /// Waits until an answer has ended of which nothing is taken.
    async fn stalled(requests: &SendRequest<Bytes>) -> Option<Reason> {
        let mut body = body(requests, "/text").await;
        let ended = body.data().await.expect("not the end of the text").expect_err("it is reset");
        ended.reason()
    }

    #[tokio::test]
    async fn an_answer_ends_whose_client_takes_nothing_and_the_others_go_on() {
        let text = "text".repeat(100);
        let quiet = || async {
            // Says something, nothing for long, and then something again.
            let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
            let body = stream::unfold(receiver, async |mut receiver| {
                receiver.recv().await.map(|bytes| (Ok::<_, Infallible>(bytes), receiver))
            });
            tokio::spawn(async move {
                let _ = sender.send("one".into()).await;
                pending::<()>().await;
            });
            Body::from_stream(body)
        };
        let router = Router::new().route("/text", get(async || text)).route("/quiet", get(quiet));
        let closed = client(router.clone(), 0).await;
        let open = client(router, 64).await;
        let mut quiet = body(&open, "/quiet").await;
        assert_eq!(quiet.data().await.expect("a piece").expect("a piece"), "on");
        assert_eq!(quiet.data().await.expect("a piece").expect("a piece"), "e");
        // Three times as long as a client may stall.
        for _ in 0..3 {
            assert_eq!(stalled(&closed).await, Some(Reason::CANCEL));
        }
        let waits = futures_util::poll!(std::pin::pin!(quiet.data()));
        assert!(waits.is_pending(), "a stream with nothing to send has ended");
        assert_eq!(whole(body(&open, "/text").await).await.expect("it is sent").len(), 400);
    }

    #[tokio::test]
    async fn an_answer_that_just_fits_the_window_needs_no_more_of_it() {
        let text = "text".repeat(100);
        let streamed =
            || async { Body::from_stream(stream::iter(["te", "xt"]).map(Ok::<_, Infallible>)) };
        let router = Router::new().route("/text", get(async || text)).route("/4", get(streamed));
        for (path, length) in [("/text", 400), ("/4", 4)] {
            let mut body = body(&client(router.clone(), length).await, path).await;
            let mut read = 0;
            while let Some(bytes) = body.data().await {
                read += bytes.expect("it is sent").len();
            }
            assert_eq!(read, length as usize);
        }
    }

    #[test]
    fn a_body_arrives_whole_through_any_window() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let config = ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() };
        let sizes = prop::collection::vec(
            prop_oneof![0..4_usize, 0..2_000_usize, 16_000..40_000_usize],
            0..8,
        );
        proptest!(config, |(sizes in sizes, window in prop_oneof![1..20_u32, 1_000..70_000_u32])| {
            let chunks: Vec<Vec<u8>> = sizes.iter().enumerate()
                .map(|(number, size)| (0..=u8::MAX).cycle().skip(number).take(*size).collect())
                .collect();
            // A tiny window makes a frame of each few bytes.
            prop_assume!(window > 100 || sizes.iter().sum::<usize>() < 4_000);
            let sent = chunks.concat();
            let streamed = chunks.clone();
            let router = Router::new()
                .route("/whole", get({
                    let sent = sent.clone();
                    async || sent
                }))
                .route("/streamed", get(async move || {
                    Body::from_stream(stream::iter(streamed).map(Ok::<_, Infallible>))
                }));
            let (as_one, in_chunks) = runtime.block_on(async {
                let client = client(router, window).await;
                let as_one = whole(body(&client, "/whole").await).await;
                (as_one, whole(body(&client, "/streamed").await).await)
            });
            prop_assert_eq!(&as_one.expect("it is sent"), &sent);
            prop_assert_eq!(&in_chunks.expect("it is sent"), &sent);
        });
    }
}
