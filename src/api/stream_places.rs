//! The places of the event streams of one process. They are shared out per account: while there are places,
//! an account may take up to its limit; when all are taken, an account gets one from the account that has
//! most, unless that would only turn the tables. The client of the ended stream resumes where it was, as
//! soon as there is a place for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::account_slots::REFUSED;
use super::error::ApiError;
use crate::events::values::Username;

/// The kind of work, for the error and the metric.
const WHAT: &str = "event streams";

/// The places of all accounts. Clones share them.
#[derive(Clone)]
pub struct StreamPlaces(Arc<Places>);

struct Places {
    total: usize,
    per_account: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// The places of each account that has one, the oldest first.
    accounts: HashMap<Username, Vec<Held>>,
    last_number: u64,
}

struct Held {
    number: u64,
    given_up: CancellationToken,
}

/// A place, free again when it is dropped.
pub struct StreamPlace {
    places: StreamPlaces,
    account: Username,
    number: u64,
    given_up: CancellationToken,
}

impl StreamPlaces {
    /// `total` places, at most `per_account` of them for one account.
    #[must_use]
    pub fn new(total: usize, per_account: usize) -> Self {
        metrics::counter!(REFUSED, "kind" => WHAT).increment(0);
        Self(Arc::new(Places { total, per_account, taken: Mutex::default() }))
    }

    /// Takes a place; 429 if the account has its share, 503 if no account has more than this one would have.
    pub(super) fn take(&self, account: &Username) -> Result<StreamPlace, ApiError> {
        let mut taken = self.taken();
        let own = taken.accounts.get(account).map_or(0, Vec::len);
        if own >= self.0.per_account {
            metrics::counter!(REFUSED, "kind" => WHAT).increment(1);
            return Err(ApiError::TooManyAtOnce { what: WHAT, limit: self.0.per_account });
        }
        if taken.accounts.values().map(Vec::len).sum::<usize>() >= self.0.total {
            let most = taken.accounts.values_mut().max_by_key(|places| places.len());
            let most = most.filter(|places| places.len() > own + 1).ok_or(ApiError::Overloaded)?;
            // The newest: the older ones were there when there was room.
            if let Some(newest) = most.pop() {
                newest.given_up.cancel();
            }
        }
        taken.last_number += 1;
        let (number, given_up) = (taken.last_number, CancellationToken::new());
        let held = Held { number, given_up: given_up.clone() };
        taken.accounts.entry(account.clone()).or_default().push(held);
        metrics::gauge!("customers_event_streams").increment(1.0);
        Ok(StreamPlace { places: self.clone(), account: account.clone(), number, given_up })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamPlace {
    /// Cancelled when another account has got the place.
    pub(super) fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        metrics::gauge!("customers_event_streams").decrement(1.0);
        let mut taken = self.places.taken();
        if let Some(places) = taken.accounts.get_mut(&self.account) {
            places.retain(|held| held.number != self.number);
            if places.is_empty() {
                taken.accounts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &StreamPlaces, account: &str) -> Result<StreamPlace, ApiError> {
        places.take(&Username::parse(account).expect("a user name"))
    }

    fn take_many(places: &StreamPlaces, account: &str, number: usize) -> Vec<StreamPlace> {
        (0..number).map(|_| take(places, account).expect("there is a place")).collect()
    }

    fn kept(places: &[StreamPlace]) -> Vec<bool> {
        places.iter().map(|place| !place.given_up().is_cancelled()).collect()
    }

    #[test]
    fn an_account_takes_its_share_and_no_more() {
        let places = StreamPlaces::new(10, 3);
        let mut ada = take_many(&places, "ada", 3);
        assert!(matches!(take(&places, "ada"), Err(ApiError::TooManyAtOnce { limit: 3, .. })));
        ada.pop();
        take(&places, "ada").expect("a place is free again");
    }

    #[test]
    fn of_places_that_are_all_taken_the_account_that_has_most_gives_up_its_newest() {
        let places = StreamPlaces::new(6, 4);
        let ada = take_many(&places, "ada", 4);
        let bob = take_many(&places, "bob", 2);
        let eve = take_many(&places, "eve", 1);
        assert_eq!((kept(&ada), kept(&bob)), (vec![true, true, true, false], vec![true; 2]));
        // No account has so many more than Bob that giving up a place would make it fairer.
        assert!(matches!(take(&places, "bob"), Err(ApiError::Overloaded)));
        assert!(matches!(take(&places, "ada"), Err(ApiError::Overloaded)));
        let again = take(&places, "eve").expect("Ada still has three");
        assert_eq!(kept(&ada), [true, true, false, false]);
        assert!(matches!(take(&places, "eve"), Err(ApiError::Overloaded)));
        // A place that was given up is not free once more when its stream ends.
        drop(ada);
        drop((bob, eve, again));
        assert!(places.taken().accounts.is_empty());
    }

    #[test]
    fn a_place_that_was_given_up_is_counted_once() {
        let places = StreamPlaces::new(2, 2);
        let mut ada = take_many(&places, "ada", 2);
        let _bob = take_many(&places, "bob", 1);
        drop(ada.pop().expect("the newest, which was given up"));
        assert!(matches!(take(&places, "eve"), Err(ApiError::Overloaded)), "all are taken");
        drop(ada);
        take(&places, "eve").expect("Ada's other place is free");
    }
}
