//! How many commands per second go from the bus into the log: creates of new customers, with 1, 32
//! and 128 in flight, and updates of one customer after another. Run by `script/bench append`, which
//! measures plain inserts beside it. Prints one line per row: `NAME COMMANDS_PER_SECOND`.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on should stop")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use customers::app::Pools;
use customers::commands::Bus;
use customers::dev::demo;
use customers::events::metadata::Metadata;
use customers::schema;
use secrecy::SecretString;
use tokio::time::Instant;

/// How long each row is measured.
fn seconds() -> u64 {
    std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

#[tokio::main]
async fn main() {
    let url = SecretString::from(std::env::var("DATABASE_URL").unwrap());
    schema::migrate(&url, None).await.unwrap();
    let pools = Pools::new(&url).unwrap();
    let bus = Bus::new(pools.appender.clone(), pools.read.clone());
    for in_flight in [1, 32, 128] {
        let rate = creates(&bus, in_flight, Duration::from_secs(seconds())).await;
        println!("ours_{in_flight} {rate:.0}");
    }
}

async fn creates(bus: &Bus, in_flight: usize, time: Duration) -> f64 {
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let writers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (bus, done) = (bus.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while began.elapsed() < time {
                    let (name, dob) = demo::person(done.fetch_add(1, Ordering::Relaxed));
                    bus.create(name, dob, metadata()).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of some 100,000")]
    let count = done.load(Ordering::Relaxed) as f64;
    count / began.elapsed().as_secs_f64()
}

/// As large as that of a request.
fn metadata() -> Metadata {
    Metadata {
        actor: Some("demo".to_owned()),
        role: Some("admin".to_owned()),
        session: Some("01a20b71-5f0a-701b-8088-fea094391e33".to_owned()),
        ip: Some("127.0.0.1".to_owned()),
        user_agent: Some("curl/7.88.1".to_owned()),
        request_id: Some("01a20b71-5f4a-7640-8640-69df9954f92a".to_owned()),
        ..Metadata::default()
    }
}
