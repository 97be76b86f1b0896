//! `POST /customers/import`: many customers from one body. The body is received whole, into a spool
//! file, before anything is imported: a client that disconnects half-way has imported nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::body::media_type;
use super::error::{ApiError, FieldError};
use super::guard::{Authorized, Editor, Requirement as _};
use super::headers::visible_ascii;
use super::limits::Limits;
use super::pace::in_time;
use super::query::Params;
use super::read_your_writes;
use super::reason::with_reason;
use super::session_watch::SessionWatch;
use super::spool::{SpoolFile, unavailable};
use super::state::Api;
use crate::commands::BusError;
use crate::commands::import::lines::{FileError, Format, LineError, Lines};
use crate::commands::import::{Fingerprint, ImportError, ImportRequest, Summary};

/// The limits of the route: files are large and slow to arrive.
pub const LIMITS: Limits = Limits { body: 1024 * 1024 * 1024, answer: Duration::from_hours(1) };

/// How many imports one process runs at the same time.
pub const IMPORTS_MAX: usize = 4;

/// How many imports one account may have, from the first byte of the body to the end of the answer.
pub const PER_ACCOUNT: usize = 2;

/// How long an import whose body is there waits until it may begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);

/// How often an import checks that its session is still open.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The approximate size of a chunk of the response, in bytes.
const CHUNK: usize = 16 * 1024;

/// The header with the import id that the client chooses.
const IMPORT_ID: HeaderName = HeaderName::from_static("import-id");

/// `POST /customers/import`
pub(super) async fn import(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers().clone();
    let format = format(&headers)?;
    params.none()?;
    let metadata = with_reason(authorized.metadata, &headers)?;
    let id = visible_ascii(&headers, &IMPORT_ID)?;
    let account = &authorized.principal.username;
    let account_slot = api.account_imports.take(account, Duration::ZERO).await?;

    let mut fingerprint = Fingerprint::new(format);
    let body = request.into_body().into_data_stream();
    let watch =
        SessionWatch::start(&api, authorized.principal.clone(), Editor::ROLE, CHECK_INTERVAL);
    let receiving = async {
        let spooled = receive(&api, body, &mut fingerprint).await?.into_reader().await?;
        // Only after the body, so that a client that sends it slowly takes no slot from the others.
        let slot = tokio::time::timeout(BEGIN_LIMIT, Arc::clone(&api.import_slots).acquire_owned());
        let slot = slot.await.map_err(|_| ApiError::Overloaded)?;
        Ok::<_, ApiError>((spooled, slot.map_err(|_| ApiError::Overloaded)?))
    };
    let received = watch.ended().run_until_cancelled(receiving).await;
    let ((file, share), slot) = received.unwrap_or_else(|| Err(watch.error()))?;
    let file = file.into_std().await;
    let today = api.clock.today();
    let opening = tokio::task::spawn_blocking(move || Lines::open(file, format, today));
    let lines = opening.await.map_err(BusError::TaskFailed)?.map_err(|error| match error {
        FileError::Header(errors) => ApiError::Invalid(fields(errors)),
        FileError::Read(error) => unavailable(&error),
    })?;
    let account = authorized.principal.username.to_string();
    let request = ImportRequest { account, id, fingerprint: fingerprint.finish(), metadata };
    api.imports.check(&request).await?;

    let (sender, answer) = mpsc::channel(4);
    let answering =
        Answer { sender: Some(sender), waited: Duration::ZERO, sent: 0, pending: vec![] };
    let tasks = api.tasks.clone();
    tasks.spawn(async move {
        // Runs to its end, even if the client disconnects, while the session is open.
        run(api, lines, request, answering, &watch, &authorized.caller.request_id).await;
        drop((slot, account_slot, share));
    });
    let body = stream::unfold(answer, async |mut answer: mpsc::Receiver<Bytes>| {
        answer.recv().await.map(|chunk| (Ok::<_, std::convert::Infallible>(chunk), answer))
    });
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, ndjson)], Body::from_stream(body)).into_response())
}

/// The format named by `Content-Type`.
fn format(headers: &HeaderMap) -> Result<Format, ApiError> {
    match media_type(headers)?.as_deref() {
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            Ok(Format::Ndjson)
        }
        Some("text/csv") => Ok(Format::Csv),
        _ => Err(ApiError::UnsupportedMediaType("application/x-ndjson or text/csv")),
    }
}

/// Receives the whole body into a spool file, and hashes it.
async fn receive(
    api: &Api,
    mut body: BodyDataStream,
    hash: &mut Fingerprint,
) -> Result<SpoolFile, ApiError> {
    let mut file = api.spool.file()?;
    let (began, mut length) = (Instant::now(), 0);
    loop {
        let chunk = in_time(began, length, body.next()).await;
        let chunk = chunk.ok_or_else(|| ApiError::malformed("body", "arrived too slowly"))?;
        let Some(chunk) = chunk else { return Ok(file) };
        let chunk = chunk.map_err(|_| ApiError::malformed("body", "ended too early"))?;
        length += chunk.len() as u64;
        if length > LIMITS.body as u64 {
            return Err(ApiError::TooLarge(LIMITS.body));
        }
        hash.update(&chunk);
        file.write(&chunk).await?;
    }
}

/// Runs the import and streams its results.
async fn run(
    api: Api,
    lines: Lines,
    request: ImportRequest,
    mut answer: Answer,
    watch: &SessionWatch,
    request_id: &str,
) {
    #[derive(Serialize)]
    struct Last {
        summary: Summary,
    }
    let (sender, mut refused) = mpsc::channel(128);
    let reporting = async {
        while let Some(line) = refused.recv().await {
            answer.line(&line).await;
        }
    };
    // Cancelled with the process, too.
    let stop = api.stopping.child_token();
    let _watching = {
        let (stop, ended) = (stop.clone(), watch.ended().clone());
        AbortOnDropHandle::new(api.tasks.spawn_until_shutdown(async move {
            ended.cancelled().await;
            stop.cancel();
        }))
    };
    let importing = api.imports.run(lines, &request, &stop, sender);
    let (outcome, ()) = tokio::join!(importing, reporting);
    match outcome {
        Ok(summary) => {
            // Like every write, it is answered when the read table shows it.
            read_your_writes::wait_for_customers(&api, summary.last_position).await;
            answer.line(&Last { summary }).await;
        }
        Err(error) => {
            tracing::error!(request_id, %error, "import: stopped");
            let problem = match error {
                ImportError::Stopped => watch.error(),
                error => error.into(),
            };
            let problem = problem.problem().body(&api.public_path, request_id);
            answer.pending.extend_from_slice(format!("{{\"error\":{problem}}}\n").as_bytes());
        }
    }
    answer.send().await;
}

/// The response, sent in chunks; none any more once the client has gone or is too slow.
struct Answer {
    sender: Option<mpsc::Sender<Bytes>>,
    /// How long it was waited for the client, and how many bytes were sent.
    waited: Duration,
    sent: u64,
    pending: Vec<u8>,
}

impl Answer {
    async fn line(&mut self, line: &impl Serialize) {
        // Serializing plain structs into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.pending, line);
        self.pending.push(b'\n');
        if self.pending.len() >= CHUNK {
            self.send().await;
        }
    }

    async fn send(&mut self) {
        let chunk = Bytes::from(std::mem::take(&mut self.pending));
        let Some(sender) = &self.sender else { return };
        // Only the time for which the client keeps the import waiting counts.
        let (began, length) = (Instant::now(), chunk.len() as u64);
        let sent = in_time(began - self.waited, self.sent, sender.send(chunk)).await;
        (self.waited, self.sent) = (self.waited + began.elapsed(), self.sent + length);
        if !matches!(sent, Some(Ok(()))) {
            self.sender = None;
        }
    }
}

fn fields(errors: Vec<LineError>) -> Vec<FieldError> {
    errors.into_iter().map(|error| FieldError::new(error.field, error.detail)).collect()
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::ImportIdReused => Self::IdempotencyMismatch,
            ImportError::TooManyRefused => {
                Self::Invalid(vec![FieldError::new("body", error.to_string())])
            }
            ImportError::Unavailable(_) | ImportError::Stopped | ImportError::Read(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}
