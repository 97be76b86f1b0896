//! The address of a client behind proxies: `X-Forwarded-For`, and `Forwarded` (RFC 7239), read by bytes
//! from the right, because the left is what the client wrote.

use customers::events::values::Role;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::json;

use crate::harness::{Login, Service, With as _, config, send};

struct Behind {
    service: Service,
    admin: Login,
}

impl Behind {
    /// A service that trusts the test, and 10.0.0.0/8 and fd00::/8 as proxies in front of it.
    async fn proxies() -> Self {
        let mut config = config().await;
        let trusted = ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"];
        config.trusted_proxies = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let service = Service::with(config).await;
        let admin = service.log_in_as(Role::Admin).await;
        Self { service, admin }
    }

    /// The address in the history of a customer that was created with these headers.
    async fn ip(&self, headers: &[(&str, &[u8])]) -> String {
        let body = json!({"name": "Ada", "dob": "1990-12-10"});
        let request = self.service.post("/customers").login(&self.admin).json(&body);
        let request = headers.iter().fold(request, |request, (name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.header(name, HeaderValue::from_bytes(value).unwrap())
        });
        let created = send(request).await;
        let path = format!("{}/history", created.header("location").unwrap());
        let history = send(self.service.get(&path).login(&self.admin)).await;
        history.body["history"][0]["ip"].as_str().unwrap().to_owned()
    }
}

const XFF: &str = "x-forwarded-for";
const CLIENT: &str = "203.0.113.9";
const CLIENT_6: &str = "2001:db8::1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_writes_never_hides_its_address() {
    let behind = Behind::proxies().await;
    for before in [
        &b"\xff"[..],
        b"K\xf6ln",
        b"198.51.100.1",
        b"unknown, 198.51.100.1",
        b"\"",
        b"\"198.51.100.1",
        b"\\\"",
        b"for=\"198.51.100.1",
        b"for=\"\\",
        b";;,,==",
        b"for=198.51.100.1;for=198.51.100.2",
        b"10.0.0.1",
        b"",
    ] {
        let joined = [before, b", 203.0.113.9, 10.0.0.2"].concat();
        assert_eq!(behind.ip(&[(XFF, &joined)]).await, CLIENT, "{before:?}");
        let lines: [(&str, &[u8]); 2] = [(XFF, before), (XFF, b"203.0.113.9,10.0.0.2")];
        assert_eq!(behind.ip(&lines).await, CLIENT, "{before:?}");
        let joined = [before, b", for=203.0.113.9;proto=https, for=10.0.0.2"].concat();
        assert_eq!(behind.ip(&[("forwarded", &joined)]).await, CLIENT, "{before:?}");
        let lines: [(&str, &[u8]); 3] = [
            ("forwarded", before),
            ("forwarded", b"for=203.0.113.9"),
            ("forwarded", b"for=10.0.0.2;by=10.0.0.1"),
        ];
        assert_eq!(behind.ip(&lines).await, CLIENT, "{before:?}");
        // A proxy that writes X-Forwarded-For passes on a Forwarded of the client.
        let both: [(&str, &[u8]); 2] = [("forwarded", before), (XFF, b"203.0.113.9")];
        assert_eq!(behind.ip(&both).await, CLIENT, "{before:?}");
    }
    let both: [(&str, &[u8]); 2] = [(XFF, b"203.0.113.9"), ("forwarded", b"for=198.51.100.1")];
    assert_eq!(behind.ip(&both).await, CLIENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_which_proxies_write_an_address_is_read() {
    let behind = Behind::proxies().await;
    for (hop, expected) in [
        ("203.0.113.9", CLIENT),
        ("203.0.113.9:4711", CLIENT),
        ("\t 203.0.113.9 ", CLIENT),
        ("\"203.0.113.9:4711\"", CLIENT),
        ("::ffff:203.0.113.9", CLIENT),
        ("2001:db8::1", CLIENT_6),
        ("[2001:db8::1]", CLIENT_6),
        ("[2001:DB8:0::1]:4711", CLIENT_6),
        ("\"[2001:db8::1]:4711\"", CLIENT_6),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("203.0.113.9,", CLIENT),
        ("203.0.113.9, ,", CLIENT),
    ] {
        assert_eq!(behind.ip(&[(XFF, hop.as_bytes())]).await, expected, "{hop}");
    }
    for (element, expected) in [
        ("for=203.0.113.9", CLIENT),
        ("For=203.0.113.9", CLIENT),
        ("FOR=\"203.0.113.9:4711\"", CLIENT),
        ("for=203.0.113.9:4711", CLIENT),
        ("for=\"203.0.113.9:_hidden\"", CLIENT),
        ("for=\"[2001:db8::1]\"", CLIENT_6),
        ("for=\"[2001:db8::1]:4711\";proto=https", CLIENT_6),
        ("for=\"\\[2001:db8::1\\]\"", CLIENT_6),
        ("for=[2001:db8::1]", CLIENT_6),
        ("for=2001:db8::1", CLIENT_6),
        ("proto=http;host=\"a,b;for=1.2.3.4\";for=203.0.113.9", CLIENT),
        ("by=10.0.0.1 ; for = 203.0.113.9", CLIENT),
        ("for=203.0.113.9;;host=x;", CLIENT),
        ("for=203.0.113.9, ", CLIENT),
    ] {
        assert_eq!(behind.ip(&[("forwarded", element.as_bytes())]).await, expected, "{element}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_trusted_proxy_does_not_say_is_not_guessed() {
    let behind = Behind::proxies().await;
    // The last proxy that is known, rather than what stands to the left of it.
    for hop in ["unknown", "_hidden", "é", "203.0.113.9é", "203.0.113.256", "0313.0.113.9", "1.2.3"]
    {
        let value = format!("198.51.100.1, {hop}");
        assert_eq!(behind.ip(&[(XFF, value.as_bytes())]).await, "127.0.0.1", "{hop}");
        let value = format!("198.51.100.1, {hop}, 10.0.0.7");
        assert_eq!(behind.ip(&[(XFF, value.as_bytes())]).await, "10.0.0.7", "{hop}");
        let value = format!("for=198.51.100.1, for=\"{hop}\", for=10.0.0.7");
        assert_eq!(behind.ip(&[("forwarded", value.as_bytes())]).await, "10.0.0.7", "{hop}");
    }
    for element in ["proto=https", "for=203.0.113.9;for=203.0.113.9", "for=\"203.0.113.9", "for"] {
        let value = format!("for=198.51.100.1, {element}");
        assert_eq!(behind.ip(&[("forwarded", value.as_bytes())]).await, "127.0.0.1", "{element}");
    }
    // A client that is not behind a proxy is believed nothing.
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let behind = Behind { service, admin };
    for (name, value) in [(XFF, "203.0.113.9"), ("forwarded", "for=203.0.113.9")] {
        assert_eq!(behind.ip(&[(name, value.as_bytes())]).await, "127.0.0.1", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_throttle_and_the_limits_count_the_client_and_not_the_proxy() {
    let mut config = config().await;
    config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.login_limit = 2;
    let service = Service::with(config).await;
    let log_in = async |n: u8, address: &[u8]| {
        let body = json!({"username": format!("nobody-{n}"), "password": "wrong password"});
        let address = HeaderValue::from_bytes(address).unwrap();
        send(service.post("/login").json(&body).header(XFF, address)).await.status
    };
    // Bytes that are no ASCII on the left do not make all clients one.
    for n in 0..2 {
        assert_eq!(log_in(n, b"\xff, 203.0.113.1").await, 401);
    }
    assert_eq!(log_in(3, b"\xff, 203.0.113.1").await, 429);
    assert_eq!(log_in(4, b"\xfe, 203.0.113.2").await, 401);
}
