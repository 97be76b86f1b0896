//! Cookies of neighbours: installations on one host share the cookies of a browser, because cookies do not
//! know ports (RFC 6265, section 8.5).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use customers::config::{Config, CookieBinding};
use customers::events::values::Role;
use serde_json::json;

use crate::harness::{Answer, Login, PASSWORD, Service, With as _, config, send, urls};
use crate::sessions::{
    events_of_type, login_of, logins_of, sid, token_alone, try_to_log_in, verdict,
};

/// What a browser keeps for a host.
#[derive(Debug, Default)]
struct Jar(BTreeMap<String, String>);

impl Jar {
    /// Stores or removes what the response sets (RFC 6265, section 5.3).
    fn take(&mut self, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie") {
            let (pair, attributes) = line.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.split(';').any(|attribute| attribute.trim() == "Max-Age=0") {
                self.0.remove(name);
            } else {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn header(&self) -> String {
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    async fn log_in(&mut self, service: &Service) -> String {
        let request = try_to_log_in(service, "viewer", PASSWORD).header("cookie", self.header());
        let answer = send(request).await;
        self.take(&answer);
        login_of(&answer).token
    }

    async fn experiment(&self, service: &Service, token: &str) -> String {
        let request = service.get("/session_cookie_experiment").bearer_auth(token);
        verdict(request.header("cookie", self.header())).await
    }

    async fn log_out(&mut self, service: &Service, token: &str) {
        let request = service.delete("/logout").bearer_auth(token).header("cookie", self.header());
        let answer = send(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.take(&answer);
    }
}

/// An installation that binds every session at log-in.
async fn installation(public_url: &str) -> Service {
    let cookie_binding = CookieBinding::Always;
    let public_url = Some(public_url.to_owned());
    let service = Service::with(Config { cookie_binding, public_url, ..config().await }).await;
    service.add_account("viewer", Role::Viewer).await;
    service
}

fn cookie_names(answer: &Answer) -> Vec<String> {
    let lines = answer.headers.get_all("set-cookie").iter();
    lines.map(|line| line.to_str().unwrap().split('=').next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installations_on_one_host_leave_each_others_sessions_alone() {
    for [one, two] in [
        ["http://h.test:8080", "http://h.test:8081"],
        ["https://h.test", "https://h.test:8443"],
        // Behind ports that the operator has not told them.
        ["http://h.test:8080", "http://h.test:8080"],
    ] {
        let (one, two) = (installation(one).await, installation(two).await);
        let mut jar = Jar::default();
        let first = jar.log_in(&one).await;
        let second = jar.log_in(&two).await;
        for _ in 0..2 {
            assert_eq!(jar.experiment(&one, &first).await, "200", "{jar:?}");
            assert_eq!(jar.experiment(&two, &second).await, "200", "{jar:?}");
        }
        jar.log_out(&two, &second).await;
        assert_eq!(jar.experiment(&one, &first).await, "200", "{jar:?}");
        let second = jar.log_in(&two).await;
        jar.log_out(&one, &first).await;
        assert_eq!(jar.experiment(&two, &second).await, "200", "{jar:?}");
        jar.log_out(&two, &second).await;
        assert_eq!(jar.0, BTreeMap::new(), "nothing of either is left");
        for service in [one, two] {
            assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_the_cookie_is_the_installations_and_the_same_in_all_its_processes() {
    let one = installation("http://h.test:8080").await;
    let again = Service::with(one.config.clone()).await;
    let two = installation("http://h.test:8081").await;
    let mut names = vec![];
    for service in [&one, &again, &two] {
        names.push(cookie_names(&send(try_to_log_in(service, "viewer", PASSWORD)).await));
    }
    assert_eq!(names[0], names[1]);
    assert_ne!(names[0][1], names[2][1]);
    for names in &names {
        // Programs that know this name find it, and find it first.
        assert_eq!((names.len(), names[0].as_str()), (2, "customers_session"));
        let tag = names[1].strip_prefix("customers_session_").unwrap();
        assert!(tag.len() == 8 && tag.bytes().all(|b| b.is_ascii_hexdigit()), "{tag}");
    }
    for login in logins_of(&send(try_to_log_in(&one, "viewer", PASSWORD)).await) {
        let request = again.get("/session_cookie_experiment").login(&login);
        assert_eq!(verdict(request).await, "200");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_of_a_neighbour_is_no_cookie() {
    let service = Service::start().await;
    service.add_account("viewer", Role::Viewer).await;
    let answer = send(try_to_log_in(&service, "viewer", PASSWORD)).await;
    let [by_shared_name, login] = logins_of(&answer);
    let neighbour = installation("http://customers.test:81").await;
    let answer = send(try_to_log_in(&neighbour, "viewer", PASSWORD)).await;
    let theirs = logins_of(&answer)[1].cookie.clone();
    let name = login.cookie.split_once('=').unwrap().0;
    let value = theirs.split_once('=').unwrap().1;
    let foreign = [
        theirs.clone(),
        format!("customers_session={value}"),
        // An earlier version's.
        "customers_session=Ym9keS1vZi1hbm90aGVyLWluc3RhbGxhdGlvbi1oZXI".to_owned(),
        "customers_session=".to_owned(),
        "customers_session".to_owned(),
        "customers_session=a; customers_session=b".to_owned(),
        format!("{name}={value}"),
        format!("{name}=\"\""),
        format!("__Host-session={value}"),
    ];
    for foreign in &foreign {
        let request = service.get("/customers?numbers=0").token(&login).header("cookie", foreign);
        assert_eq!(verdict(request).await, "200", "{foreign}");
        // It proves nothing, either.
        let request = service.get("/session_cookie_experiment").token(&login);
        assert_eq!(verdict(request.header("cookie", foreign)).await, "401 token-replay");
    }
    for foreign in &foreign {
        for own in [&login.cookie, &by_shared_name.cookie] {
            for cookies in [format!("{foreign}; {own}"), format!("{own}; {foreign}")] {
                let request = service.get("/session_cookie_experiment").token(&login);
                assert_eq!(verdict(request.header("cookie", &cookies)).await, "200", "{cookies}");
            }
        }
    }
    assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 0);
    // The session is bound now. A foreign cookie does not stand for its own.
    let request = service.get("/customers?numbers=0").token(&login).header("cookie", &foreign[0]);
    assert_eq!(verdict(request).await, "401 token-replay");
    assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_cookie_says_what_happened() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let other = service.log_in("viewer").await;
    let request = service.get("/customers").token(&login).header("cookie", &other.cookie);
    insta::assert_snapshot!(
        send(request).await.shape(),
        @r#"401 {"detail":"the cookie belongs to another session; this session is not bound to a cookie and stays open","request_id":"[id]","status":401,"title":"Token replay","type":"/problems/token-replay"}"#
    );
    insta::assert_snapshot!(
        send(service.get("/session_cookie_experiment").token(&login)).await.shape(),
        @r#"401 {"detail":"the cookie of this session is required; the session is not bound to it yet and stays open","request_id":"[id]","status":401,"title":"Token replay","type":"/problems/token-replay"}"#
    );
    assert_eq!(token_alone(&service, &login).await, "200", "both left the session open");
    assert_eq!(verdict(service.get("/customers").login(&login)).await, "200");
    let request = service.get("/customers").token(&login).header("cookie", &other.cookie);
    insta::assert_snapshot!(
        send(request).await.shape(),
        @r#"401 {"detail":"the token came without its session cookie","request_id":"[id]","status":401,"title":"Token replay","type":"/problems/token-replay"}"#
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_of_a_session_removes_only_its_own_cookie() {
    let service = Service::start().await;
    service.add_account("viewer", Role::Viewer).await;
    let foreign = "customers_session=of-a-neighbour";
    // A client without a jar keeps an empty cookie of a log-out.
    for (cookies, is_shared_ours) in [("", true), ("customers_session=", true), (foreign, false)] {
        let request = try_to_log_in(&service, "viewer", PASSWORD).header("cookie", cookies);
        let answer = send(request).await;
        let login = login_of(&answer);
        let expected = cookie_names(&answer);
        assert_eq!(expected.contains(&"customers_session".to_owned()), is_shared_ours);
        assert_eq!(expected.len(), if is_shared_ours { 2 } else { 1 });
        let sent = answer.headers.get_all("set-cookie").iter();
        let sent = sent.map(|line| line.to_str().unwrap().split(';').next().unwrap());
        let sent = sent.chain([cookies]).collect::<Vec<_>>().join("; ");
        let sid = sid(&login);
        for path in [&format!("/sessions/{sid}"), "/logout", "/sessions"] {
            let request = service.delete(path).token(&login).header("cookie", &sent);
            let answer = send(request).await;
            if answer.status == 200 {
                assert_eq!(cookie_names(&answer), expected, "{path}");
                let lines = answer.headers.get_all("set-cookie").iter();
                for line in lines {
                    let rest = line.to_str().unwrap().split_once('=').unwrap().1;
                    assert_eq!(rest, "; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
                }
            } else {
                assert_eq!(answer.header("set-cookie"), None, "a refusal removes nothing");
            }
        }
    }
    for path in ["/logout", "/sessions"] {
        // A client that sends no cookie has none of a neighbour.
        let login = send(try_to_log_in(&service, "viewer", PASSWORD)).await;
        let answer = send(service.delete(path).token(&login_of(&login))).await;
        assert_eq!(cookie_names(&answer), cookie_names(&login));
    }
}

/// The value of a cookie of an earlier version: 32 random bytes, without a form of ours.
const EARLIER: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// Gives a session of a viewer the cookie that an earlier version gave it.
async fn open_as_earlier(service: &Service, login: &Login) {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, EARLIER.as_bytes());
    let prefix = &service.config.redis_prefix;
    let mut hset = redis::cmd("HSET");
    hset.arg(format!("{prefix}:{{viewer}}:session:{}", sid(login)));
    hset.arg("cookie").arg(BASE64_URL_SAFE_NO_PAD.encode(digest));
    let client = redis::Client::open(urls().redis.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let added: i64 = hset.query_async(&mut connection).await.unwrap();
    assert_eq!(added, 0, "the field was there");
}

/// A session as an earlier version opened it: its cookie has the name that all installations share, and no
/// form of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_an_earlier_version_opened_keeps_its_cookie() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    open_as_earlier(&service, &login).await;
    let old = format!("customers_session={EARLIER}");
    for _ in 0..2 {
        let request = service.get("/session_cookie_experiment").token(&login);
        assert_eq!(verdict(request.header("cookie", &old)).await, "200");
    }
    assert_eq!(token_alone(&service, &login).await, "401 token-replay", "it is bound");
}

/// On https below a path, earlier versions set a cookie for the whole host, by a name that is not used there
/// any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_an_earlier_version_below_a_path_keeps_its_cookie_until_it_ends() {
    let service = installation("https://h.test/registry").await;
    let request = || try_to_log_in(&service, "viewer", PASSWORD);
    let login = login_of(&send(request()).await);
    open_as_earlier(&service, &login).await;
    let old = format!("__Host-session={EARLIER}");
    let with = |path: &str, cookie: &str| service.get(path).token(&login).header("cookie", cookie);
    for path in ["/customers?numbers=0", "/session_cookie_experiment"] {
        assert_eq!(verdict(with(path, &old)).await, "200", "{path}");
    }
    let log_out = service.delete("/logout").token(&login).header("cookie", &old);
    let answer = send(log_out).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let removed: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    let host = "__Host-session=; Secure; HttpOnly; SameSite=Strict; Path=/; Max-Age=0";
    assert!(removed.iter().any(|line| *line == host), "{removed:?}");

    // The cookie of the installation at the root of the host, in its present form, is a neighbour's.
    let root = installation("https://h.test").await;
    let theirs = login_of(&send(try_to_log_in(&root, "viewer", PASSWORD)).await).cookie;
    assert!(theirs.starts_with("__Host-session="), "{theirs}");
    let login = login_of(&send(request().header("cookie", &theirs)).await);
    let both = format!("{theirs}; {}", login.cookie);
    let log_out = service.delete("/logout").token(&login).header("cookie", both);
    let answer = send(log_out).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!cookie_names(&answer).contains(&"__Host-session".to_owned()), "{answer:?}");
    assert_eq!(events_of_type(&service, "viewer", "TokenReplayDetected").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_neighbour_costs_no_log_in() {
    // The log-in itself needs no cookie, whatever the jar holds.
    let service = Service::start().await;
    service.add_account("ada", Role::Viewer).await;
    for cookies in ["customers_session=x; customers_session=y", "customers_session", ";;=;"] {
        let body = json!({"username": "ada", "password": PASSWORD});
        let request = service.post("/login").json(&body).header("cookie", cookies);
        assert_eq!(send(request).await.status, 200, "{cookies}");
    }
}
