//! Demo data: customers made through commands, person `i` the same whatever their number, and the
//! account that the README logs in with.

use chrono::{Days, NaiveDate};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::auth::account::{AccountError, Accounts};
use crate::auth::fair_queue::Network;
use crate::auth::password::Passwords;
use crate::commands::{Bus, BusError, Written};
use crate::events::customer::CustomerValues;
use crate::events::metadata::Metadata;
use crate::events::values::{DateOfBirth, Name, Role, Username};

/// The account's name and password.
pub const USERNAME: &str = "demo";
pub const PASSWORD: &str = "demo-password";

/// The actor of the events of demo data.
pub const ACTOR: &str = "customers demo";

/// How many commands are at work at once when there are many; up to `IN_ORDER` customers are made one
/// by one, so that a small demo has the same ids everywhere.
const IN_FLIGHT: usize = 64;
const IN_ORDER: u64 = 1000;

const FIRST: [&str; 24] = [
    "Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Radia", "Linus", "Margaret", "Niklaus",
    "Frances", "Dennis", "Hedy", "Claude", "Karen", "Tim", "Shafi", "Leslie", "Jean", "John",
    "Annie", "Ken", "Mary", "Kurt",
];

const LAST: [&str; 20] = [
    "Lovelace",
    "Hopper",
    "Turing",
    "Dijkstra",
    "Liskov",
    "Knuth",
    "Perlman",
    "Torvalds",
    "Hamilton",
    "Wirth",
    "Allen",
    "Ritchie",
    "Lamarr",
    "Shannon",
    "Jones",
    "Lee",
    "Goldwasser",
    "Lamport",
    "Bartik",
    "Backus",
];

/// The first day on which a demo customer is born, and over how many days they spread.
const BORN_FROM: NaiveDate = NaiveDate::from_ymd_opt(1940, 1, 1).expect("a real day");
const BORN_DAYS: u64 = 27_000;

/// Person `i`, from 0.
///
/// # Panics
/// Never: all these names are names.
#[must_use]
pub fn person(i: u64) -> (Name, DateOfBirth) {
    let pick = |names: &[&'static str], i: u64| {
        usize::try_from(i % names.len() as u64).map_or("", |index| names[index])
    };
    // 7919 and 17 have no factor in common with the lengths: neighbours look different.
    let first = pick(&FIRST, i);
    let last = pick(&LAST, i / FIRST.len() as u64 + i * 17);
    let date = BORN_FROM + Days::new(i.wrapping_mul(7919) % BORN_DAYS);
    let name = Name::parse(&format!("{first} {last}")).expect("two words of letters are a name");
    (name, DateOfBirth::stored(date))
}

/// Creates `number` customers. `done` is called after each.
pub async fn create(bus: &Bus, number: u64, done: impl Fn()) -> Result<(), BusError> {
    create_as(bus, number, &Metadata::of_program(ACTOR), done).await
}

/// The same, with this metadata of the events.
pub async fn create_as(
    bus: &Bus,
    number: u64,
    metadata: &Metadata,
    done: impl Fn(),
) -> Result<(), BusError> {
    let in_flight = if number <= IN_ORDER { 1 } else { IN_FLIGHT };
    stream::iter(0..number)
        .map(|i| async move {
            let (name, dob) = person(i);
            bus.create(CustomerValues::new(name, dob), metadata.clone()).await
        })
        .buffered(in_flight)
        .try_for_each(|_: Written| {
            done();
            std::future::ready(Ok(()))
        })
        .await
}

/// Makes the demo account if it is missing.
pub async fn account(
    accounts: &Accounts,
    passwords: &Passwords,
    metadata: Metadata,
) -> anyhow::Result<()> {
    let username = Username::parse(USERNAME)?;
    if accounts.find(&username).await?.is_some() {
        return Ok(());
    }
    let slot = passwords.slot(Network::LOCAL).await?;
    let hash = passwords.hash(slot, PASSWORD.to_owned()).await?;
    match accounts.add(&username, &hash, Role::Admin, metadata).await {
        // Another process has added the account meanwhile.
        Ok(()) | Err(AccountError::Exists(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
