//! Answers over HTTP/2 end when their client takes nothing of them for too long. hyper does not poll a body
//! while the client's window is closed (RFC 9113, section 5.2), so no timer inside of the body could fire.
//! So the task that sends the answer is dropped from outside, which resets its stream with CANCEL; the other
//! streams of the connection go on.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::Instant;

/// How many bytes the client is offered at a time: a frame of HTTP/2 has no more, unless the client asks for
/// larger ones. A client that takes none of them in time is ended.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// That of the answer which the task sends.
    static ANSWER: Offer;
}

/// Runs each request of HTTP/2, and its answer, in a task of its own.
#[derive(Clone, Copy)]
pub(super) struct Http2Answers {
    /// How long a client may take nothing of an answer.
    pub stalled_for: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Http2Answers {
    fn execute(&self, answer: F) {
        let offer = Offer { stalled_for: self.stalled_for, deadline: Arc::default() };
        tokio::spawn(async move {
            let mut answer = pin!(ANSWER.scope(offer.clone(), answer));
            let mut timer = pin!(tokio::time::sleep(offer.stalled_for));
            poll_fn(|cx| {
                if answer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let Some(deadline) = offer.deadline() else { return Poll::Pending };
                if timer.deadline() != deadline {
                    timer.as_mut().reset(deadline);
                }
                ready!(timer.as_mut().poll(cx));
                metrics::counter!("customers_http2_stalled_total").increment(1);
                Poll::Ready(())
            })
            .await;
        });
    }
}

/// What the client is offered, and until when it has to take it. The task of the answer and its body share
/// it.
#[derive(Clone)]
struct Offer {
    stalled_for: Duration,
    /// `None` while the client waits for the service.
    deadline: Arc<Mutex<Option<Instant>>>,
}

impl Offer {
    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

/// The response, whose client has to take its body in time, if it is sent over HTTP/2.
pub(super) fn timed(response: Response) -> Response {
    match ANSWER.try_with(Offer::clone) {
        Ok(offer) => response.map(|body| Body::new(Pieces { body, rest: Bytes::new(), offer })),
        Err(_) => response,
    }
}

/// A body in pieces. The last byte of each chunk is a piece of its own: hyper polls for the next piece when
/// the window has room for the one before, so the end of the body shows that the client has taken all of it,
/// and no rest is left in the buffers of a connection for ever.
struct Pieces {
    body: Body,
    /// What is left of the chunk.
    rest: Bytes,
    offer: Offer,
}

impl Pieces {
    fn piece(&mut self) -> Bytes {
        let length = match self.rest.len() {
            0 | 1 => self.rest.len(),
            length => PIECE.min(length - 1),
        };
        self.rest.split_to(length)
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.offer.set(None);
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => self.rest = chunk,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        self.offer.set(Some(Instant::now() + self.offer.stalled_for));
        let piece = self.piece();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(of_body.lower() + rest);
        hint
    }
}
