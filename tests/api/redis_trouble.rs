//! Sessions under failures of Redis: restart from an older dump, failover, lost data, freeze, full memory.
//! No ended session is accepted again, and no session loses its binding.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use customers::config::Config;
use customers::events::metadata::Metadata;
use customers::events::values::{Role, Username};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{Login, PASSWORD, Service, With as _, config, config_on, send, until};
use crate::own_redis::Redis;
use crate::proxy::Proxy;
use crate::sessions::{events_of_type, sid, token_alone, token_and_cookie, verdict};

pub async fn service_on(url: String) -> Service {
    Service::with(Config { redis_url: Some(url.into()), ..config().await }).await
}

/// A second service on the same servers, with the same Redis prefix and signing keys.
pub async fn second_service(service: &Service) -> Service {
    let Config { redis_url, redis_prefix, keys_dir, .. } = service.config.clone();
    let config = config_on(service.database_url());
    Service::with(Config { redis_url, redis_prefix, keys_dir, ..config }).await
}

/// A master, its replica, and a proxy in front of the master.
async fn master_and_replica() -> (Redis, Redis, Proxy) {
    let (master, replica) = (Redis::start(&[]).await, Redis::start(&[]).await);
    replica.ask(&format!("REPLICAOF 127.0.0.1 {}", master.address().port())).await;
    let before = Proxy::start(master.address()).await;
    (master, replica, before)
}

/// Waits until the replica of this master is in sync.
pub async fn until_in_sync(master: &Redis) {
    until("the replica is in sync", async || {
        master.ask("WAIT 1 100").await == redis::Value::Int(1)
    })
    .await;
}

pub async fn is_ready(service: &Service) -> bool {
    send(service.get("/readyz")).await.status == 200
}

/// Repeats a request until its verdict is not 503; returns that verdict.
async fn until_available(mut asked: impl AsyncFnMut() -> String) -> String {
    let mut told = String::new();
    until("Redis is available and trusted", async || {
        told = asked().await;
        told != "503 unavailable"
    })
    .await;
    told
}

/// Adds an editor with this name and opens a session.
pub async fn open(service: &Service, name: &str) -> Login {
    service.add_account(name, Role::Editor).await;
    service.log_in(name).await
}

/// Sessions that are ended, bound or kept after the state that the next Redis serves was copied.
pub struct Ended {
    pub logged_out: Login,
    elsewhere: Login,
    replayed: Login,
    pub bound: Login,
    disabled: Login,
    lowered: Login,
    kept: Login,
    kept_bound: Login,
}

impl Ended {
    pub async fn open(service: &Service) -> Self {
        let ended = Self {
            logged_out: open(service, "logged-out").await,
            elsewhere: open(service, "elsewhere").await,
            replayed: open(service, "replayed").await,
            bound: open(service, "bound").await,
            disabled: open(service, "disabled").await,
            lowered: open(service, "lowered").await,
            kept: open(service, "stays").await,
            kept_bound: open(service, "kept-bound").await,
        };
        assert_eq!(token_and_cookie(service, &ended.kept_bound).await, "200");
        ended
    }

    pub async fn end(&self, service: &Service) {
        let log_out = service.delete("/logout").token(&self.logged_out);
        assert_eq!(verdict(log_out).await, "200");
        let by = service.log_in("elsewhere").await;
        let path = format!("/sessions/{}", sid(&self.elsewhere));
        assert_eq!(verdict(service.delete(&path).token(&by)).await, "200");
        assert_eq!(token_and_cookie(service, &self.replayed).await, "200");
        assert_eq!(token_alone(service, &self.replayed).await, "401 token-replay");
        assert_eq!(token_and_cookie(service, &self.bound).await, "200");
        // The command line changes accounts so when it cannot connect to Redis: in the log only.
        let accounts = service.accounts();
        let metadata = Metadata::of_program("test");
        let name = |name| Username::parse(name).unwrap();
        accounts.disable(&name("disabled"), metadata.clone()).await.unwrap();
        accounts.change_role(&name("lowered"), Role::Viewer, metadata).await.unwrap();
    }

    /// Checks that the ended sessions stay ended and the others are kept. No request is admitted before
    /// the epoch of Redis is trusted.
    pub async fn stay_ended(&self, service: &Service) {
        for (what, login) in [
            ("logged out", &self.logged_out),
            ("ended elsewhere", &self.elsewhere),
            ("replayed", &self.replayed),
            ("disabled", &self.disabled),
            ("role lowered", &self.lowered),
        ] {
            let told = until_available(async || token_and_cookie(service, login).await).await;
            assert_eq!(told, "401 unauthenticated", "{what}");
            assert_eq!(token_alone(service, login).await, "401 unauthenticated", "{what}");
        }
        assert_eq!(token_alone(service, &self.kept).await, "200");
        assert_eq!(token_and_cookie(service, &self.kept_bound).await, "200");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_from_an_older_dump_revives_no_session_and_unbinds_none() {
    let mut redis = Redis::start(&[]).await;
    let service = service_on(redis.url()).await;
    let ended = Ended::open(&service).await;
    redis.ask("SAVE").await;
    ended.end(&service).await;
    redis.kill().await;
    redis.start_again().await;
    ended.stay_ended(&service).await;
    assert_eq!(token_alone(&service, &ended.bound).await, "401 token-replay");
    until("the service is ready", async || is_ready(&service).await).await;

    // The same for a process that starts after Redis has loaded the older dump.
    redis.kill().await;
    redis.start_again().await;
    let other = second_service(&service).await;
    ended.stay_ended(&other).await;
    service.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_a_replica_that_lags_revives_no_session_and_unbinds_none() {
    let (mut master, replica) = (Redis::start(&[]).await, Redis::start(&[]).await);
    let before = Proxy::start(master.address()).await;
    let between = Proxy::start(master.address()).await;
    let service = service_on(format!("redis://{}", before.address)).await;
    let follow = format!("REPLICAOF 127.0.0.1 {}", between.address.port());
    replica.ask(&follow).await;
    let ended = Ended::open(&service).await;
    // The replica is in sync; then its connection is cut for good.
    until_in_sync(&master).await;
    between.move_to(([127, 0, 0, 1], 1).into());
    between.cut_all();
    ended.end(&service).await;

    // No request is admitted while the server is still a replica, whatever data it has.
    before.move_to(replica.address());
    master.kill().await;
    let told = last_verdict(async || token_alone(&service, &ended.logged_out).await).await;
    assert_eq!(told, "503 unavailable");
    assert!(!is_ready(&service).await);
    replica.ask("REPLICAOF NO ONE").await;
    ended.stay_ended(&service).await;
    assert_eq!(token_alone(&service, &ended.bound).await, "401 token-replay");
    service.stop().await;
}

/// Repeats a request 20 times, so that the connection is replaced meanwhile; returns the last verdict.
/// Checks that no repetition is admitted.
async fn last_verdict(mut asked: impl AsyncFnMut() -> String) -> String {
    let mut told = asked().await;
    for _ in 0..20 {
        told = asked().await;
        assert_ne!(told, "200");
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgot_everything_lets_nobody_in_and_everybody_log_in_again() {
    let mut redis = Redis::start(&[]).await;
    let service = service_on(redis.url()).await;
    let login = open(&service, "ada").await;
    assert_eq!(token_alone(&service, &login).await, "200");
    redis.ask("FLUSHALL").await;
    assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    let again = service.log_in("ada").await;
    assert_eq!(token_alone(&service, &again).await, "200");
    redis.kill().await;
    assert_eq!(token_alone(&service, &again).await, "503 unavailable");
    redis.start_again().await;
    let told = until_available(async || token_alone(&service, &again).await).await;
    assert_eq!(told, "401 unauthenticated");
    let again = service.log_in("ada").await;
    assert_eq!(token_alone(&service, &again).await, "200");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_while_redis_was_away_has_ended_when_it_is_back() {
    // This Redis syncs every write to disk, so it restarts with the state of the moment of the kill.
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let service = service_on(redis.url()).await;
    let (out, disabled) = (open(&service, "out").await, open(&service, "disabled").await);
    let kept = open(&service, "kept").await;
    assert_eq!(token_and_cookie(&service, &out).await, "200");
    redis.kill().await;
    let log_out = service.delete("/logout").login(&out);
    assert_eq!(verdict(log_out).await, "503 unavailable");
    let name = Username::parse("disabled").unwrap();
    service.accounts().disable(&name, Metadata::of_program("test")).await.unwrap();
    redis.start_again().await;
    let told = until_available(async || token_alone(&service, &disabled).await).await;
    assert_eq!(told, "401 unauthenticated");
    assert_eq!(token_alone(&service, &kept).await, "200");
    // The log-out got a 503 and has no event in the log, so the client repeats it.
    assert_eq!(verdict(service.delete("/logout").login(&out)).await, "200");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_at_work_are_told_at_once_that_redis_stands_still() {
    let redis = Redis::start(&[]).await;
    let service = Arc::new(service_on(redis.url()).await);
    let login = open(&service, "ada").await;
    let (stop, frozen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let (service, login) = (Arc::clone(&service), login.clone());
            let (stop, frozen) = (Arc::clone(&stop), Arc::clone(&frozen));
            tokio::spawn(async move {
                let mut missed = 0;
                while !stop.load(Ordering::SeqCst) {
                    let asked = frozen.load(Ordering::SeqCst);
                    let began = Instant::now();
                    let told = token_alone(&service, &login).await;
                    // The service promises 500 ms; the rest of the limit is for a busy machine.
                    assert!(began.elapsed().as_millis() < 5000, "{:?}", began.elapsed());
                    match told.as_str() {
                        "200" => assert!(
                            !asked || !frozen.load(Ordering::SeqCst),
                            "admitted while Redis is frozen"
                        ),
                        "503 unavailable" => missed += 1,
                        other => panic!("{other}"),
                    }
                }
                missed
            })
        })
        .collect();
    redis.signal(Signal::STOP);
    frozen.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(verdict(service.get("/livez")).await, "200");
        assert!(!is_ready(&service).await);
    }
    frozen.store(false, Ordering::SeqCst);
    redis.signal(Signal::CONT);
    until("the session is accepted again", async || token_alone(&service, &login).await == "200")
        .await;
    until("the service is ready", async || is_ready(&service).await).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0, "a client never got a 503");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_is_not_ready() {
    let redis = Redis::start(&[]).await;
    let service = service_on(redis.url()).await;
    service.add_account("ada", Role::Editor).await;
    let credentials = json!({"username": "ada", "password": PASSWORD});
    for (broken, mended) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ] {
        let login = service.log_in("ada").await;
        redis.ask(broken).await;
        assert!(!is_ready(&service).await, "{broken}");
        assert_eq!(verdict(service.get("/livez")).await, "200");
        let told = verdict(service.post("/login").json(&credentials)).await;
        assert_eq!(told, "503 unavailable", "{broken}");
        let log_out = service.delete("/logout").token(&login);
        let told = verdict(log_out).await;
        assert!(["200", "503 unavailable"].contains(&told.as_str()), "{broken}: {told}");
        redis.ask(mended).await;
        until("the service is ready", async || is_ready(&service).await).await;
        let again = service.log_in("ada").await;
        assert_eq!(token_alone(&service, &again).await, "200");
        // The client repeats a log-out that got a 503.
        let told = verdict(service.delete("/logout").token(&login)).await;
        assert!(["200", "401 unauthenticated"].contains(&told.as_str()), "{broken}: {told}");
        assert_eq!(token_alone(&service, &login).await, "401 unauthenticated");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_one_also_for_a_process_that_has_just_started() {
    let service = Service::start().await;
    let login = open(&service, "ada").await;
    assert_eq!(token_and_cookie(&service, &login).await, "200");
    let other = second_service(&service).await;
    let told = until_available(async || token_alone(&other, &login).await).await;
    assert_eq!(told, "401 token-replay");
    assert_eq!(events_of_type(&service, "ada", "TokenReplayDetected").await.len(), 1);
    service.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_keeps_who_is_in_and_lets_go_who_has_to() {
    let redis = Redis::start(&[]).await;
    let config = Config { account_limit: 1000, ..config().await };
    let service = Service::with(Config { redis_url: Some(redis.url().into()), ..config }).await;
    let (ada, eve, bob) =
        (open(&service, "ada").await, open(&service, "eve").await, open(&service, "bob").await);
    redis.ask("CONFIG SET maxmemory 1").await;
    assert_eq!(token_and_cookie(&service, &ada).await, "200");
    assert_eq!(token_alone(&service, &ada).await, "401 token-replay");
    assert_eq!(verdict(service.delete("/logout").token(&bob)).await, "200");
    assert_eq!(token_alone(&service, &bob).await, "401 unauthenticated");
    let name = Username::parse("eve").unwrap();
    service.accounts().disable(&name, Metadata::of_program("test")).await.unwrap();
    until("the session of eve has ended", async || {
        token_alone(&service, &eve).await == "401 unauthenticated"
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_recorded_is_recorded_when_it_is_asked_again() {
    let redis = Redis::start(&[]).await;
    let service = service_on(redis.url()).await;
    let (bound, replayed) = (open(&service, "bound").await, open(&service, "replayed").await);
    // The state after a process is killed between its write to Redis and its append to the log.
    let prefix = &service.config.redis_prefix;
    let left = async |login: &Login, name: &str, what: &str| {
        let key = format!("{prefix}:{{{name}}}:session:{}", sid(login));
        redis.ask(&format!("HSET {key} {what} 1000")).await;
    };
    left(&bound, "bound", "bound").await;
    left(&replayed, "replayed", "replayed").await;
    assert_eq!(token_and_cookie(&service, &bound).await, "200");
    assert_eq!(token_and_cookie(&service, &bound).await, "200");
    assert_eq!(events_of_type(&service, "bound", "SessionBound").await.len(), 1);
    assert_eq!(token_alone(&service, &bound).await, "401 token-replay");
    assert_eq!(token_and_cookie(&service, &replayed).await, "401 token-replay");
    assert_eq!(token_and_cookie(&service, &replayed).await, "401 unauthenticated");
    assert_eq!(events_of_type(&service, "replayed", "TokenReplayDetected").await.len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_became_a_replica_is_left_for_the_new_one() {
    let (old, new, before) = master_and_replica().await;
    let service = service_on(format!("redis://{}", before.address)).await;
    let login = open(&service, "ada").await;
    until_in_sync(&old).await;
    // The connections to the old master are not cut.
    new.ask("REPLICAOF NO ONE").await;
    old.ask(&format!("REPLICAOF 127.0.0.1 {}", new.address().port())).await;
    before.move_to(new.address());
    assert_eq!(token_alone(&service, &login).await, "503 unavailable");
    until("the service uses the new master", async || token_alone(&service, &login).await == "200")
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_gone_without_a_word_is_left_for_the_one_in_its_place() {
    let (old, new, before) = master_and_replica().await;
    let service = service_on(format!("redis://{}", before.address)).await;
    let login = open(&service, "ada").await;
    until_in_sync(&old).await;
    // As after a power failure of its machine: the connections stay open and no answer comes.
    old.signal(Signal::STOP);
    new.ask("REPLICAOF NO ONE").await;
    before.move_to(new.address());
    until("the service uses the new master", async || token_alone(&service, &login).await == "200")
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_goes_to_and_fro_between_two_masters_revives_no_session() {
    let (one, other, before) = master_and_replica().await;
    let service = Arc::new(service_on(format!("redis://{}", before.address)).await);
    let ended = Ended::open(&service).await;
    service.add_account("many", Role::Viewer).await;
    let mut many = vec![];
    for _ in 0..20 {
        many.push(service.log_in("many").await);
    }
    until_in_sync(&one).await;
    other.ask("REPLICAOF NO ONE").await;
    let switch_to = {
        let (before, one, other) = (before.clone(), one.address(), other.address());
        move |first: bool| {
            before.move_to(if first { one } else { other });
            before.cut_all();
        }
    };

    // A session that ends while one master serves has also ended when the other one serves.
    switch_to(false);
    let told = until_available(async || token_alone(&service, &ended.kept).await).await;
    assert_eq!(told, "200");
    ended.end(&service).await;
    switch_to(true);
    ended.stay_ended(&service).await;
    switch_to(false);
    ended.stay_ended(&service).await;

    // The same while requests are in flight during a change of master.
    let stop = Arc::new(AtomicBool::new(false));
    let changing = tokio::spawn({
        let (stop, switch_to) = (Arc::clone(&stop), switch_to.clone());
        async move {
            let mut pause = tokio::time::interval(std::time::Duration::from_millis(60));
            for round in 0_u32.. {
                switch_to(round.is_multiple_of(2));
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                pause.tick().await;
            }
        }
    });
    for login in &many {
        until("the session is logged out", async || {
            let told = verdict(service.delete("/logout").login(login)).await;
            assert!(["200", "401 unauthenticated", "503 unavailable"].contains(&&*told), "{told}");
            told != "503 unavailable"
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    changing.await.unwrap();
    for first in [true, false] {
        switch_to(first);
        for login in &many {
            let told = until_available(async || token_and_cookie(&service, login).await).await;
            assert_eq!(told, "401 unauthenticated", "{first}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_on_two_masters_learn_from_the_log_what_has_ended() {
    let (one, other, before) = master_and_replica().await;
    let here = service_on(one.url()).await;
    let url = format!("redis://{}", before.address);
    let config = Config { redis_url: Some(url.into()), ..config_on(here.database_url()) };
    let Config { redis_prefix, keys_dir, .. } = here.config.clone();
    let there = Service::with(Config { redis_prefix, keys_dir, ..config }).await;
    let login = open(&here, "ada").await;
    assert_eq!(token_alone(&there, &login).await, "200");
    until_in_sync(&one).await;
    other.ask("REPLICAOF NO ONE").await;
    before.move_to(other.address());
    before.cut_all();
    let told = until_available(async || verdict(there.delete("/logout").login(&login)).await).await;
    // The first log-out may have got a 503 although its event is in the log; then the next gets a 401.
    assert!(["200", "401 unauthenticated"].contains(&&*told), "{told}");
    until("the session has ended on the other master too", async || {
        token_alone(&here, &login).await == "401 unauthenticated"
    })
    .await;
    assert_eq!(token_alone(&there, &login).await, "401 unauthenticated");
    here.stop().await;
    there.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_the_password_later_is_ready_then() {
    let redis = Redis::start(&[]).await;
    let service = service_on(redis.url().replace("redis://", "redis://:secret@")).await;
    assert!(!is_ready(&service).await);
    redis.ask("CONFIG SET requirepass secret").await;
    until("the service is ready", async || is_ready(&service).await).await;
    service.stop().await;
}
