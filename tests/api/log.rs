//! The log: positions without gaps in commit order, append-only.

use customers::commands::{Bus, BusError, CustomerCommand, ExternalIdChange, IfMatch, Refusal};
use customers::events::customer::{CUSTOMER, CustomerEvent, CustomerValues};
use customers::events::log::{Append, AppendError, NewEvent, Outcome, append, read};
use customers::events::metadata::Metadata;
use customers::events::values::{DateOfBirth, Name};
use customers::postgres::Pool;
use sqlx::{Executor as _, Row as _};

use crate::harness::{Service, until};

fn person() -> (Name, DateOfBirth) {
    let today = chrono::NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
    (Name::parse("Ada").unwrap(), DateOfBirth::parse("1990-12-10", today).unwrap())
}

fn bus(service: &Service) -> Bus {
    Bus::new(service.pools.appender.clone(), service.pools.short.clone())
}

/// Position, sequence and time (microseconds) of every event, in the order of the positions.
async fn log(pool: &Pool) -> Vec<(i64, i64, i64)> {
    let rows = pool
        .fetch_all(
            "select position, sequence, (extract(epoch from recorded_at) * 1000000)::bigint as at
             from events order by position",
        )
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_have_no_gaps_and_time_order_is_position_order() {
    let service = Service::start().await;
    // To the log, two buses on one appender are like two processes.
    let buses = [bus(&service), bus(&service)];
    let tasks: Vec<_> = (0..64)
        .map(|i| {
            let bus = buses[i % 2].clone();
            tokio::spawn(async move {
                let (name, dob) = person();
                for _ in 0..5 {
                    bus.create(CustomerValues::new(name.clone(), dob), Metadata::default())
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let log = log(&service.pools.short).await;
    assert_eq!(log.len(), 320);
    assert!(log.iter().zip(1..).all(|((position, _, _), expected)| *position == expected));
    assert!(
        log.windows(2).all(|pair| pair[0].2 < pair[1].2),
        "the times are not strictly increasing"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_remembers_its_position_misses_nothing_while_two_processes_append() {
    const EVENTS: usize = 400;
    let service = Service::start().await;
    let pool = service.pools.short.clone();
    let reader = tokio::spawn(async move {
        let mut seen = vec![];
        while seen.len() < EVENTS {
            let after = seen.last().copied().unwrap_or(0);
            let page = read::page(&pool, after, 50).await.unwrap();
            seen.extend(page.iter().map(|event| event.position));
        }
        seen
    });
    let writers = [bus(&service), bus(&service)].map(|bus| {
        tokio::spawn(async move {
            let (name, dob) = person();
            let creates = (0..EVENTS / 2)
                .map(|_| bus.create(CustomerValues::new(name.clone(), dob), Metadata::default()));
            for written in futures_util::future::join_all(creates).await {
                written.unwrap();
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    let seen = reader.await.unwrap();
    assert_eq!(seen, (1..=i64::try_from(EVENTS).unwrap()).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_writers_on_one_customer_lose_nothing_and_with_a_version_one_wins() {
    let service = Service::start().await;
    let buses = [bus(&service), bus(&service)];
    let (name, dob) = person();
    let created =
        buses[0].create(CustomerValues::new(name, dob), Metadata::default()).await.unwrap();
    let update = |i: usize, if_match| {
        let bus = buses[i % 2].clone();
        let name = Name::parse(&format!("Ada {i}")).unwrap();
        let command =
            CustomerCommand::Update { name, dob, external_id: ExternalIdChange::Keep, if_match };
        async move { bus.change(created.id, command, Metadata::default()).await }
    };
    let all = (0..50).map(|i| update(i, IfMatch::Any));
    for written in futures_util::future::join_all(all).await {
        written.unwrap();
    }
    let id = created.id.to_string();
    let last = read::last_event::<CustomerEvent>(&service.pools.short, CUSTOMER, &id).await;
    let last = last.unwrap().unwrap();
    assert_eq!(last.sequence, 51);

    let one = (100..150).map(|i| update(i, IfMatch::OneOf(vec![51])));
    let results = futures_util::future::join_all(one).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for refused in results.into_iter().filter_map(Result::err) {
        let refusal = Refusal::VersionMismatch { current: 52 };
        assert!(matches!(refused, BusError::Refused(reason) if reason == refusal), "{refused}");
    }
    let sequences: Vec<i64> = log(&service.pools.short).await.iter().map(|event| event.1).collect();
    assert_eq!(sequences, (1..=52).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_gives_each_command_its_own_outcome_and_appends_all_or_nothing_of_each() {
    let service = Service::start().await;
    let event = |n: usize| {
        let payload = format!(r#"{{"type":"CustomerUpdated","name":"{n}","dob":"1990-12-10"}}"#);
        NewEvent { event_type: "CustomerUpdated".into(), event_version: "1".into(), payload }
    };
    let command = |id: &str, expected, events: usize| Append {
        command_id: uuid::Uuid::from_u128(7),
        aggregate_type: "customer",
        aggregate_id: id.to_owned(),
        expected,
        events: (0..events).map(event).collect(),
        metadata: Metadata::default().into(),
        key: None,
        external_id: None,
    };
    let outcomes = futures_util::future::join_all(
        [
            command("1", Some(0), 2),
            command("1", Some(1), 2),
            command("1", None, 1),
            command("1", Some(3), 1),
            Append {
                events: vec![NewEvent { payload: "{".into(), ..event(0) }],
                ..command("3", Some(0), 1)
            },
            command("2", Some(0), 1),
        ]
        .map(|command| service.pools.appender.append(command)),
    )
    .await;
    let shapes: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(Outcome::Appended(at)) => format!("{}", at.sequence),
            Ok(Outcome::Conflict { sequence }) => format!("conflict at {sequence}"),
            Ok(outcome) => format!("{outcome:?}"),
            Err(AppendError::Refused(_)) => "refused".to_owned(),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(shapes, ["2", "conflict at 2", "3", "4", "refused", "1"]);
    let log = log(&service.pools.short).await;
    assert_eq!(log.iter().map(|event| event.0).collect::<Vec<_>>(), (1..=5).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_changes_what_happened() {
    let service = Service::start().await;
    let (name, dob) = person();
    bus(&service).create(CustomerValues::new(name, dob), Metadata::default()).await.unwrap();
    let mut connection = service.pools.accounts.acquire().await.unwrap();
    for replication in ["origin", "replica"] {
        let role = format!("set session_replication_role = {replication}");
        connection.execute(role.as_str()).await.unwrap();
        for statement in [
            "update events set event_type = 'x'",
            "update events set event_type = 'x' where false",
            "delete from events",
            "truncate events",
            "truncate events cascade",
        ] {
            let error = connection.execute(statement).await.unwrap_err().to_string();
            assert!(error.contains("events is append-only"), "{statement}: {error}");
        }
    }
    assert_eq!(log(&service.pools.short).await.len(), 1);
    drop(connection);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_meets_a_taken_id_takes_another() {
    let service = Service::start().await;
    let (name, dob) = person();
    // An import may have used ids that the id sequence has not assigned yet.
    let taken = Append {
        command_id: uuid::Uuid::from_u128(7),
        aggregate_type: "customer",
        aggregate_id: "1".into(),
        expected: Some(0),
        events: vec![NewEvent {
            event_type: "CustomerDeleted".into(),
            event_version: "1".into(),
            payload: r#"{"type":"CustomerDeleted"}"#.into(),
        }],
        metadata: Metadata::default().into(),
        key: None,
        external_id: None,
    };
    append(&service.pools.accounts, &[taken]).await.unwrap();
    let written =
        bus(&service).create(CustomerValues::new(name, dob), Metadata::default()).await.unwrap();
    assert_eq!((written.id.get(), written.version()), (33, 1), "the first id of the next block");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_to_its_end_even_if_nobody_waits_for_it() {
    let service = Service::start().await;
    let (name, dob) = person();
    let bus = bus(&service);
    let waiting = bus.create(CustomerValues::new(name, dob), Metadata::default());
    // The future is polled once, so the command is queued, and then dropped.
    assert!(futures_util::FutureExt::now_or_never(waiting).is_none());
    let pool = service.pools.short.clone();
    until("the event is in the log", async || read::head(&pool).await.unwrap() == 1).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_in_the_middle_of_an_append_loses_and_doubles_nothing() {
    let service = Service::start().await;
    let bus = bus(&service);
    let (name, dob) = person();
    for round in 1..=3 {
        // While the test holds the append lock, the append call waits in PostgreSQL.
        let mut holder = service.pools.long.once().begin().await.unwrap();
        holder.execute("lock table locks.append in exclusive mode").await.unwrap();
        let (name, bus) = (name.clone(), bus.clone());
        let create = tokio::spawn(async move {
            bus.create(CustomerValues::new(name, dob), Metadata::default()).await
        });
        let pool = service.pools.short.clone();
        until("the call was cut", async || {
            let cut = "select pg_terminate_backend(pid) from pg_stat_activity
                       where datname = current_database() and wait_event = 'relation'";
            !pool.fetch_all(cut).await.unwrap().is_empty()
        })
        .await;
        holder.rollback().await.unwrap();
        assert_eq!(create.await.unwrap().unwrap().position, round);
        assert_eq!(read::head(&service.pools.short).await.unwrap(), round);
    }
    service.stop().await;
}
