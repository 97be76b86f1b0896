//! Lists of customers, youngest first. The rows are taken from PostgreSQL as fast as it sends them
//! and given to the client as fast as it takes them: in between they wait in memory, or in an
//! unlinked file when they are many. So a slow client holds no snapshot, and memory stays flat.

use std::io::SeekFrom;
use std::pin::pin;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::cursor::Cursor;
use super::customers::Customer;
use super::error::ApiError;
use super::extract::{Params, page_limit, plain_number};
use super::freshness;
use super::guard::{Allowed, Viewer};
use super::past;
use super::replica::Source;
use super::{Api, Length};
use crate::projections::Projection;
use crate::projections::customer_history::{self, CustomerHistory};
use crate::projections::customers::{self, Customers, Row};

/// How many bytes wait in memory before a file takes them.
const MEMORY_MAX: usize = 256 * 1024;

/// How many bytes a client is sent at a time.
const CHUNK: usize = 64 * 1024;

/// Lists of up to so many customers are answered over the connections for short queries.
const SHORT: i64 = 1000;

/// `GET /customers`, with `numbers=n` or `limit=&after=`, and `as_of=T`
pub(super) async fn list(
    allowed: Allowed<Viewer>,
    State(api): State<Api>,
    source: Source,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let [numbers, number, limit, after, as_of] =
        params.only(["numbers", "number", "limit", "after", "as_of"])?;
    let part = part(numbers, number, limit.as_deref(), after.is_some())?;
    if as_of.is_some() {
        past::allowed(&allowed.principal)?;
    }
    let moment = as_of.as_deref().map(past::moment).transpose()?;
    let behind = match &after {
        Some(after) => Some(Cursor::verify(api.cursor_key(), after)?),
        None => None,
    };
    let (asked, position) = if let Some(moment) = moment {
        let position = past::position(&api, source, &headers, moment).await?;
        (Some(position), Some(position))
    } else {
        (freshness::wait(&api, source, &headers).await?, None)
    };
    if behind.is_some_and(|behind| behind.position != position) {
        return Err(ApiError::malformed("after", "belongs to a list of another moment"));
    }
    let behind = behind.map(|behind| (behind.dob, behind.id));
    let number = match part {
        Part::All => None,
        Part::Youngest(number) => Some(number),
        // One more than asked for says whether there is another page.
        Part::Page(limit) => Some(limit + 1),
    };
    let short = position.is_none() && number.is_some_and(|number| number <= SHORT);
    let length = if short { Length::Short } else { Length::Long };
    let kept: &dyn Projection = if position.is_some() { &CustomerHistory } else { &Customers };
    let mut db = freshness::reader(&api, source, length, kept, asked).await?;
    let rows = match position {
        Some(position) => {
            customer_history::youngest_at(&mut *db, position, behind, number).left_stream()
        }
        None => customers::youngest(&mut *db, behind, number).right_stream(),
    };
    let Part::Page(limit) = part else { return whole(rows).await };
    let rows: Vec<Row> = rows.try_collect().await?;
    page(&api, rows, limit, position, as_of.as_deref())
}

/// Which part of a list is asked for.
enum Part {
    All,
    Youngest(i64),
    Page(i64),
}

fn part(
    numbers: Option<String>,
    number: Option<String>,
    limit: Option<&str>,
    has_after: bool,
) -> Result<Part, ApiError> {
    let number = match (numbers, number) {
        (Some(_), Some(_)) => {
            return Err(ApiError::malformed("number", "conflicts with numbers"));
        }
        (Some(text), None) => Some(plain_number("numbers", &text)?),
        (None, Some(text)) => Some(plain_number("number", &text)?),
        (None, None) => None,
    };
    match (number, limit.is_some() || has_after) {
        (Some(_), true) => Err(ApiError::malformed("numbers", "conflicts with limit and after")),
        (Some(number), false) => Ok(Part::Youngest(number)),
        (None, true) => Ok(Part::Page(i64::try_from(page_limit(limit)?).unwrap_or(i64::MAX))),
        (None, false) => Ok(Part::All),
    }
}

/// All rows, however many.
async fn whole(rows: impl Stream<Item = Result<Row, sqlx::Error>>) -> Result<Response, ApiError> {
    let mut rows = pin!(rows);
    let mut spool = Spool::default();
    let mut count: u64 = 0;
    while let Some(row) = rows.try_next().await? {
        if count > 0 {
            spool.waiting.push(b',');
        }
        serde_json::to_writer(&mut spool.waiting, &Customer::from(&row))
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        count += 1;
        spool.relieve().await.map_err(|error| full(&error))?;
    }
    spool.waiting.extend_from_slice(b"]}");
    spool
        .answer(format!("{{\"number\":{count},\"customers\":["))
        .await
        .map_err(|error| full(&error))
}

/// A page, and where the next one begins (RFC 8288, section 3).
fn page(
    api: &Api,
    mut rows: Vec<Row>,
    limit: i64,
    position: Option<i64>,
    as_of: Option<&str>,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Page<'a> {
        number: usize,
        customers: Vec<Customer<'a>>,
        next: Option<String>,
    }
    let keep = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > keep;
    rows.truncate(keep);
    let next = match rows.last().filter(|_| more) {
        Some(row) => Some(Cursor { dob: row.dob, id: row.id, position }.sign(api.cursor_key())?),
        None => None,
    };
    let link = next.as_ref().map(|next| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &limit.to_string()).append_pair("after", next);
        if let Some(as_of) = as_of {
            query.append_pair("as_of", as_of);
        }
        format!("</customers?{}>; rel=\"next\"", query.finish())
    });
    let customers: Vec<_> = rows.iter().map(Customer::from).collect();
    let mut response = Json(Page { number: customers.len(), customers, next }).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// The disk does not take what is spooled.
pub(super) fn full(error: &std::io::Error) -> ApiError {
    ApiError::Unavailable(format!("spool file: {error}"))
}

/// Bytes on their way from PostgreSQL to the client.
#[derive(Default)]
struct Spool {
    waiting: Vec<u8>,
    file: Option<File>,
    filed: u64,
}

impl Spool {
    /// Moves what waits into the file when it is much.
    async fn relieve(&mut self) -> std::io::Result<()> {
        if self.waiting.len() < MEMORY_MAX {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::from_std(tempfile::tempfile()?)),
        };
        file.write_all(&self.waiting).await?;
        self.filed += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// The head, what was filed, what still waits.
    async fn answer(self, head: String) -> std::io::Result<Response> {
        let length = head.len() as u64 + self.filed + self.waiting.len() as u64;
        let body = match self.file {
            None => {
                let mut bytes = head.into_bytes();
                bytes.extend_from_slice(&self.waiting);
                Body::from(bytes)
            }
            Some(mut file) => {
                file.flush().await?;
                file.seek(SeekFrom::Start(0)).await?;
                let head = stream::iter([Ok(Bytes::from(head))]);
                let tail = stream::iter([Ok(Bytes::from(self.waiting))]);
                Body::from_stream(head.chain(ReaderStream::with_capacity(file, CHUNK)).chain(tail))
            }
        };
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        Ok(response)
    }
}
