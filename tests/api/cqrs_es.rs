//! The event repository of this project and the one of postgres-es, both under cqrs-es on the same
//! table: each loads the events that the other stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_es::persist::{
    PersistedEventRepository as _, PersistedEventStore, PersistenceError, QueryReplay,
};
use cqrs_es::{Aggregate as _, AggregateError, CqrsFramework, EventEnvelope, EventStore, Query};
use customers::commands::customer::{Customer, State};
use customers::commands::{CustomerCommand, ExternalIdChange, IfMatch, Refusal};
use customers::events::customer::{CustomerEvent, CustomerValues};
use customers::events::log::EventRepository;
use customers::events::upcast::upcasters;
use customers::events::values::{DateOfBirth, Name};
use postgres_es::PostgresEventRepository;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{Service, With as _, send};

/// postgres-es inserts no position, command id or time, so the test adds defaults for them.
const DEFAULTS: &str = "
    alter table events
        alter column position set default (nextval('postgres_es_positions')),
        alter column command_id set default gen_random_uuid(),
        alter column recorded_at set default clock_timestamp()";

fn values(name: &str) -> (Name, DateOfBirth) {
    (Name::parse(name).unwrap(), DateOfBirth::stored("1990-12-10".parse().unwrap()))
}

fn create(name: &str) -> CustomerCommand {
    let (name, dob) = values(name);
    CustomerCommand::Create(CustomerValues::new(name, dob))
}

fn update(name: &str) -> CustomerCommand {
    let (name, dob) = values(name);
    CustomerCommand::Update {
        name,
        dob,
        external_id: ExternalIdChange::Keep,
        if_match: IfMatch::Any,
    }
}

fn metadata() -> HashMap<String, String> {
    HashMap::from([
        ("actor".to_owned(), "cqrs".to_owned()),
        ("anything".to_owned(), "a flat object of strings may have".to_owned()),
    ])
}

/// A query that records the events that cqrs-es dispatches.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, usize, CustomerEvent)>>>);

#[async_trait]
impl Query<Customer> for Seen {
    async fn dispatch(&self, id: &str, events: &[EventEnvelope<Customer>]) {
        let mut seen = self.0.lock().unwrap();
        seen.extend(events.iter().map(|e| (id.to_owned(), e.sequence, e.payload.clone())));
    }
}

impl Seen {
    fn take(&self) -> Vec<(String, usize, CustomerEvent)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn ours(service: &Service) -> EventRepository {
    EventRepository::new(service.pools.short.clone(), service.pools.appender.clone())
}

async fn theirs(service: &Service) -> PostgresEventRepository {
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    owner.execute("create sequence postgres_es_positions").await.unwrap();
    owner.execute(DEFAULTS).await.unwrap();
    PostgresEventRepository::new(service.pools.short.once().clone())
}

/// Sets the sequence of postgres-es to the head of the log, so that its next position follows.
async fn align(service: &Service) {
    let statement = "select setval('postgres_es_positions', max(position)) from events";
    service.pools.short.execute(statement).await.unwrap();
}

fn store<R: cqrs_es::persist::PersistedEventRepository>(
    repository: R,
) -> PersistedEventStore<R, Customer> {
    PersistedEventStore::new_event_store(repository).with_upcasters(upcasters())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_framework_runs_on_the_log_and_each_repository_reads_what_the_other_wrote() {
    let service = Service::start().await;
    let seen = Seen::default();
    let on_ours = CqrsFramework::new(store(ours(&service)), vec![Box::new(seen.clone())], ());
    let their_repository = theirs(&service).await;
    let on_theirs = CqrsFramework::new(store(their_repository), vec![Box::new(seen.clone())], ());

    on_ours.execute_with_metadata("1", create("Ada"), metadata()).await.unwrap();
    align(&service).await;
    on_theirs.execute_with_metadata("1", update("Ada King"), metadata()).await.unwrap();
    on_ours.execute_with_metadata("1", update("Ada Lovelace"), metadata()).await.unwrap();
    align(&service).await;
    on_theirs.execute_with_metadata("2", create("Grace"), metadata()).await.unwrap();
    on_ours.execute("2", CustomerCommand::Delete { if_match: IfMatch::Any }).await.unwrap();
    let refused = on_ours.execute("2", update("Grace Hopper")).await;
    assert!(matches!(refused, Err(AggregateError::UserError(Refusal::NotFound))), "{refused:?}");
    let names = |seen: Vec<(String, usize, CustomerEvent)>| -> Vec<(String, usize)> {
        seen.into_iter().map(|(id, sequence, _)| (id, sequence)).collect()
    };
    let written = [("1", 1), ("1", 2), ("1", 3), ("2", 1), ("2", 2)];
    let written: Vec<_> = written.map(|(id, n)| (id.to_owned(), n)).to_vec();
    assert_eq!(names(seen.take()), written);

    // Both repositories load the same aggregate, with its metadata.
    let on_both = [
        store(ours(&service)).load_events("1").await.unwrap(),
        store(PostgresEventRepository::new(service.pools.short.once().clone()))
            .load_events("1")
            .await
            .unwrap(),
    ];
    for envelopes in on_both {
        assert_eq!(envelopes.len(), 3);
        let mut customer = Customer::default();
        for envelope in envelopes {
            assert_eq!(envelope.metadata, metadata());
            cqrs_es::Aggregate::apply(&mut customer, envelope.payload);
        }
        let (name, dob) = values("Ada Lovelace");
        assert_eq!(
            (customer.version, customer.state),
            (3, State::Present(CustomerValues::new(name, dob)))
        );
    }
    let last = ours(&service).get_last_events::<Customer>("1", 1).await.unwrap();
    assert_eq!(last.iter().map(|event| event.sequence).collect::<Vec<_>>(), [2, 3]);

    // A replay follows the order of the log.
    let replay = QueryReplay::<_, _, Customer>::new(ours(&service), seen.clone());
    replay.replay_all().await.unwrap();
    assert_eq!(names(seen.take()), written);
    replay.replay("2").await.unwrap();
    assert_eq!(names(seen.take()), written[3..]);

    // The service shows the events of cqrs-es, and their payloads have the same bytes as those of the bus.
    let payload: String = sqlx::query_scalar(
        "select payload::text from events where event_type = 'CustomerCreated'
                            order by position limit 1",
    )
    .fetch_one(&service.pools.short)
    .await
    .unwrap();
    assert_eq!(payload, r#"{"type":"CustomerCreated","name":"Ada","dob":"1990-12-10"}"#);
    service.caught_up().await;
    let auditor = service.log_in_as(customers::events::values::Role::Auditor).await;
    let answer = send(service.get("/customers/1").login(&auditor)).await;
    assert_eq!(
        (&answer.body["name"], &answer.body["version"]),
        (&"Ada Lovelace".into(), &3.into())
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_loaded_an_older_state_is_told_of_the_conflict() {
    let service = Service::start().await;
    let store = store(ours(&service));
    let [first, second] =
        [store.load_aggregate("7").await.unwrap(), store.load_aggregate("7").await.unwrap()];
    let (name, dob) = values("Ada");
    let event = || vec![CustomerEvent::created(CustomerValues::new(name.clone(), dob))];
    store.commit(event(), first, metadata()).await.unwrap();
    let conflict = store.commit(event(), second, metadata()).await;
    assert!(matches!(conflict, Err(AggregateError::AggregateConflict)), "{conflict:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_an_older_version_is_upcast_in_every_store() {
    let service = Service::start().await;
    let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
    owner
        .execute(
            r#"insert into events values (1, 'customer', '1', 1, 'CustomerCreated', '0',
               '{"type":"CustomerCreated","full_name":"Ada","born":"1990-12-10"}', '{}',
               gen_random_uuid(), clock_timestamp())"#,
        )
        .await
        .unwrap();
    let seen = Seen::default();
    let replay = QueryReplay::<_, _, Customer>::new(ours(&service), seen.clone())
        .with_upcasters(upcasters());
    replay.replay_all().await.unwrap();
    let (name, dob) = values("Ada");
    let expected = CustomerEvent::created(CustomerValues::new(name, dob));
    assert_eq!(seen.take(), [("1".to_owned(), 1, expected)]);
    let theirs = store(PostgresEventRepository::new(service.pools.short.once().clone()));
    assert_eq!(theirs.load_events("1").await.unwrap().len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_the_middle_of_a_stream_is_not_taken_for_its_end() {
    let service = Service::start().await;
    let framework = CqrsFramework::new(store(ours(&service)), vec![], ());
    // More events than one page and the channel hold, so the stream is not read ahead to its end.
    framework.execute("1", create("Ada")).await.unwrap();
    for n in 0..700 {
        framework.execute("1", update(&format!("Ada {}", n % 2))).await.unwrap();
    }
    for all in [false, true] {
        let repository = ours(&service);
        let mut stream = if all {
            repository.stream_all_events::<Customer>().await.unwrap()
        } else {
            repository.stream_events::<Customer>("1").await.unwrap()
        };
        let first = stream.next::<Customer>(&[]).await.unwrap().unwrap();
        assert_eq!(first.sequence, 1);
        let mut owner = PgConnection::connect(service.database_url()).await.unwrap();
        owner.execute("alter table events rename to events_away").await.unwrap();
        let (mut events, mut end) = (1, None);
        while let Some(item) = stream.next::<Customer>(&[]).await {
            match item {
                Ok(_) => events += 1,
                Err(error) => end = Some(error),
            }
        }
        owner.execute("alter table events_away rename to events").await.unwrap();
        assert!(events < 701, "the table was renamed too late: {events} events read");
        assert!(matches!(end, Some(PersistenceError::ConnectionError(_))), "{end:?}");
    }
    assert_eq!(Customer::TYPE, "customer");
    service.stop().await;
}
