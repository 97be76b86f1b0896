//! The log as a `PersistedEventRepository` of cqrs-es, so that `PersistedEventStore`, `CqrsFramework` and
//! `QueryReplay` run on it unchanged. It appends through the appender, like the bus: each event gets a
//! position in the log and shares the commit of its batch.

use cqrs_es::Aggregate;
use cqrs_es::persist::{
    PersistedEventRepository, PersistenceError, ReplayFeed, ReplayStream, SerializedEvent,
    SerializedSnapshot,
};
use serde_json::Value;

use super::append::{Append, Outcome};
use super::appender::{AppendError, Appender};
use super::payload::{DecodeError, EncodedMetadata, NewEvent};
use super::{StoredEvent, read};
use crate::clock;
use crate::postgres::Pool;

/// How many events are read at a time; a stream buffers at most as many again.
const PAGE: i64 = 200;

/// Reads over a pool and appends through an appender, both on the same primary.
#[derive(Clone)]
pub struct EventRepository {
    pool: Pool,
    appender: Appender,
}

impl EventRepository {
    #[must_use]
    pub fn new(pool: Pool, appender: Appender) -> Self {
        Self { pool, appender }
    }

    async fn read_all(
        &self,
        aggregate_type: &str,
        aggregate_id: &str,
        after: usize,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        let mut events = vec![];
        let mut after = i64::try_from(after).unwrap_or(i64::MAX);
        loop {
            let page =
                read::stream_page(&self.pool, aggregate_type, aggregate_id, after, PAGE).await;
            let page = page.map_err(unavailable)?;
            let Some(last) = page.last() else { return Ok(events) };
            after = last.sequence;
            for event in page {
                events.push(serialized(event)?);
            }
        }
    }
}

impl PersistedEventRepository for EventRepository {
    async fn get_events<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        self.read_all(A::TYPE, aggregate_id, 0).await
    }

    async fn get_last_events<A: Aggregate>(
        &self,
        aggregate_id: &str,
        last_sequence: usize,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        self.read_all(A::TYPE, aggregate_id, last_sequence).await
    }

    /// Always `None`: an event carries the whole state, so a snapshot would save nothing.
    async fn get_snapshot<A: Aggregate>(
        &self,
        _aggregate_id: &str,
    ) -> Result<Option<SerializedSnapshot>, PersistenceError> {
        Ok(None)
    }

    /// Appends the events of one aggregate, all or none; `OptimisticLockError` when the stream is at
    /// another sequence. Does not store the snapshot.
    async fn persist<A: Aggregate>(
        &self,
        events: &[SerializedEvent],
        _snapshot_update: Option<(String, Value, usize)>,
    ) -> Result<(), PersistenceError> {
        let Some(first) = events.first() else { return Ok(()) };
        let append = Append {
            command_id: clock::new_id(),
            aggregate_type: A::TYPE,
            aggregate_id: first.aggregate_id.clone(),
            expected: Some(i64::try_from(first.sequence).unwrap_or(i64::MAX) - 1),
            events: events.iter().map(new_event::<A>).collect::<Result<_, _>>()?,
            metadata: EncodedMetadata::parse(&first.metadata).map_err(undecodable)?,
            key: None,
            // The database refuses one that is taken.
            external_id: None,
        };
        match self.appender.append(append).await.map_err(append_failed)? {
            Outcome::Appended(_) => Ok(()),
            Outcome::Conflict { .. } => Err(PersistenceError::OptimisticLockError),
            outcome @ (Outcome::Unchanged
            | Outcome::Duplicate { .. }
            | Outcome::ExternalIdTaken { .. }) => {
                let problem = format!("unexpected outcome of an append without a key: {outcome:?}");
                Err(PersistenceError::UnknownError(problem.into()))
            }
        }
    }

    async fn stream_events<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<ReplayStream, PersistenceError> {
        let aggregate_id = Some(aggregate_id.to_owned());
        Ok(Source { pool: self.pool.clone(), aggregate_type: A::TYPE, aggregate_id }.stream())
    }

    /// Streams the events of all aggregates of the type, in the order of the log.
    async fn stream_all_events<A: Aggregate>(&self) -> Result<ReplayStream, PersistenceError> {
        let pool = self.pool.clone();
        Ok(Source { pool, aggregate_type: A::TYPE, aggregate_id: None }.stream())
    }
}

/// The events of one aggregate, or of all of one type.
struct Source {
    pool: Pool,
    aggregate_type: &'static str,
    aggregate_id: Option<String>,
}

impl Source {
    /// A stream that a task feeds page by page; the task ends with the stream. An error is the stream's
    /// last item, so that a consumer does not mistake it for the end of the events.
    fn stream(self) -> ReplayStream {
        let (feed, stream) = ReplayStream::new(usize::try_from(PAGE).unwrap_or(usize::MAX));
        tokio::spawn(async move {
            // A failed push means that the consumer has dropped the stream.
            let _ = self.feed(feed).await;
        });
        stream
    }

    async fn feed(self, mut feed: ReplayFeed) -> Result<(), PersistenceError> {
        let mut last: Option<StoredEvent> = None;
        loop {
            let page = match self.page(last.as_ref()).await {
                Ok(page) => page,
                Err(error) => return feed.push(Err(unavailable(error))).await,
            };
            let Some(end) = page.last() else { return Ok(()) };
            last = Some(end.clone());
            for event in page {
                let event = serialized(event);
                let is_error = event.is_err();
                feed.push(event).await?;
                if is_error {
                    return Ok(());
                }
            }
        }
    }

    async fn page(&self, last: Option<&StoredEvent>) -> Result<Vec<StoredEvent>, sqlx::Error> {
        let Self { pool, aggregate_type, aggregate_id } = self;
        if let Some(id) = aggregate_id {
            let after = last.map_or(0, |last| last.sequence);
            read::stream_page(pool, aggregate_type, id, after, PAGE).await
        } else {
            let after = last.map_or(0, |last| last.position);
            read::type_page(pool, aggregate_type, after, PAGE).await
        }
    }
}

fn serialized(event: StoredEvent) -> Result<SerializedEvent, PersistenceError> {
    Ok(SerializedEvent {
        aggregate_id: event.aggregate_id,
        sequence: usize::try_from(event.sequence).unwrap_or_default(),
        aggregate_type: event.aggregate_type,
        event_type: event.event_type,
        event_version: event.event_version,
        payload: serde_json::from_str(&event.payload)?,
        metadata: serde_json::from_str(&event.metadata)?,
    })
}

/// Encodes through the aggregate's event type, because a `Value` has lost the order of its members.
fn new_event<A: Aggregate>(event: &SerializedEvent) -> Result<NewEvent, PersistenceError> {
    let typed: A::Event = serde_json::from_value(event.payload.clone())?;
    Ok(NewEvent::from(&typed))
}

fn unavailable(error: sqlx::Error) -> PersistenceError {
    PersistenceError::ConnectionError(Box::new(error))
}

fn undecodable(error: DecodeError) -> PersistenceError {
    PersistenceError::DeserializationError(Box::new(error))
}

fn append_failed(error: AppendError) -> PersistenceError {
    match error {
        AppendError::Full | AppendError::Unavailable(_) | AppendError::Stopped => {
            PersistenceError::ConnectionError(Box::new(error))
        }
        AppendError::Refused(_) => PersistenceError::UnknownError(Box::new(error)),
    }
}
