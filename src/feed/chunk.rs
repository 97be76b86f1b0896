//! Consecutive events of the tail, encoded once for all followers, and what each follower is shown of them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::view::View;
use crate::events::log::filter::Filter;
use crate::events::log::{DecodeError, StoredEvent};

/// Encodes an event for followers.
pub type Frame = fn(&StoredEvent) -> Result<String, DecodeError>;

/// Which events a follower is shown, and what of them.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub filter: Filter,
    pub view: View,
}

impl Selection {
    /// Whether it is the whole log.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.filter.is_empty() && self.view == View::Whole
    }
}

/// Events, encoded one after the other.
#[derive(Clone, Default)]
pub(super) struct Frames {
    pub(super) bytes: Bytes,
    /// Where each event begins.
    starts: Arc<[usize]>,
}

impl Frames {
    /// Encodes the events that `filter` selects; the frames of the others are empty.
    pub(super) fn of(
        events: &[StoredEvent],
        frame: Frame,
        Selection { filter, view }: &Selection,
    ) -> Result<Self, DecodeError> {
        let (mut text, mut starts) = (String::new(), Vec::with_capacity(events.len()));
        for event in events {
            starts.push(text.len());
            if filter.matches(event) {
                match view {
                    View::Whole => text.push_str(&frame(event)?),
                    View::Customers => text.push_str(&frame(&view.of(event.clone()))?),
                }
            }
        }
        Ok(Self { bytes: text.into(), starts: starts.into() })
    }

    /// All but the first `skipped`.
    fn after(&self, skipped: usize) -> Bytes {
        self.starts.get(skipped).map_or_else(Bytes::new, |start| self.bytes.slice(*start..))
    }

    fn get(&self, number: usize) -> &[u8] {
        let end = self.starts.get(number + 1).copied().unwrap_or(self.bytes.len());
        self.starts.get(number).map_or(&[], |start| &self.bytes[*start..end])
    }
}

/// Consecutive events, encoded.
#[derive(Clone)]
pub(super) struct Chunk {
    first: i64,
    pub(super) last: i64,
    events: Arc<[StoredEvent]>,
    pub(super) whole: Frames,
    /// What all subscribers are shown, encoded for the first of them.
    of_customers: Arc<OnceLock<Frames>>,
}

impl Chunk {
    /// What a follower at `position` is shown of it: no bytes if that is nothing; `None` if it has seen the chunk.
    /// Positions have no gaps.
    pub(super) fn after(
        &self,
        position: i64,
        selection: &Selection,
        frame: Frame,
    ) -> Result<Option<Bytes>, DecodeError> {
        if position >= self.last {
            return Ok(None);
        }
        let skipped = usize::try_from(position + 1 - self.first).unwrap_or(0);
        let frames = match selection.view {
            View::Whole => &self.whole,
            View::Customers => self.of_customers(frame)?,
        };
        let is_shared = match selection.view {
            View::Whole => selection.filter.is_empty(),
            View::Customers => selection.filter.is_of_customers(),
        };
        if is_shared {
            return Ok(Some(frames.after(skipped)));
        }
        let mut shown = vec![];
        for (number, event) in self.events.iter().enumerate().skip(skipped) {
            if selection.filter.matches(event) {
                shown.extend_from_slice(frames.get(number));
            }
        }
        Ok(Some(shown.into()))
    }

    fn of_customers(&self, frame: Frame) -> Result<&Frames, DecodeError> {
        if let Some(frames) = self.of_customers.get() {
            return Ok(frames);
        }
        let filter = Filter { only_customers: true, ..Filter::default() };
        let shown = Selection { filter, view: View::Customers };
        let frames = Frames::of(&self.events, frame, &shown)?;
        Ok(self.of_customers.get_or_init(|| frames))
    }
}

/// Consecutive events, encoded, in chunks of about `bytes`.
pub(super) fn encode_chunks(
    events: Vec<StoredEvent>,
    frame: Frame,
    bytes: usize,
) -> Result<Vec<Chunk>, DecodeError> {
    let (mut chunks, mut frames, mut starts, mut of_chunk) =
        (vec![], String::new(), vec![], vec![]);
    let count = events.len();
    for (number, event) in events.into_iter().enumerate() {
        starts.push(frames.len());
        frames.push_str(&frame(&event)?);
        let last = event.position;
        of_chunk.push(event);
        if frames.len() >= bytes || number + 1 == count {
            let whole = Frames {
                bytes: Bytes::from(std::mem::take(&mut frames)),
                starts: std::mem::take(&mut starts).into(),
            };
            chunks.push(Chunk {
                first: last + 1 - i64::try_from(of_chunk.len()).unwrap_or(i64::MAX),
                last,
                events: std::mem::take(&mut of_chunk).into(),
                whole,
                of_customers: Arc::default(),
            });
        }
    }
    Ok(chunks)
}
