//! The headers of every response for browsers and caches, and CORS.

use customers::config::Config;
use customers::events::values::Role;
use reqwest::Method;

use crate::harness::{Service, With as _, config, send};

const SET: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_for_who_asked_and_for_nothing_else() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let requests = [
        service.get("/customers").login(&admin),
        service.get("/customers?numbers=1").login(&admin),
        service.get("/events").login(&admin),
        service.get("/events/stream").login(&admin),
        service.get("/sessions").login(&admin),
        service.get("/metrics"),
        service.get("/.well-known/jwks.json"),
        service.get("/customers"),
        service.get("/nothing"),
        service.put("/livez"),
        service.post("/login").body("x".repeat(100_000)),
    ];
    for request in requests {
        let what = format!("{request:?}");
        let answer = request.send().await.unwrap();
        for (name, value) in SET {
            assert_eq!(answer.headers().get_all(name).iter().count(), 1, "{name} of {what}");
            let said = answer.headers()[name].to_str().unwrap();
            // The stream adds that it must not be compressed.
            let said = said.strip_suffix(", no-transform").unwrap_or(said);
            assert_eq!(said, value, "{name} of {what}");
        }
        assert!(!answer.headers().contains_key("strict-transport-security"), "{what}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{what}");
    }
    let config = Config { public_url: Some("https://customers.test".to_owned()), ..config().await };
    let service = Service::with(config).await;
    for path in ["/livez", "/customers", "/nothing"] {
        let answer = send(service.get(path)).await;
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_configured_origins_may_ask_and_no_others() {
    let cors_origins = vec!["https://console.example".to_owned()];
    let service = Service::with(Config { cors_origins, ..config().await }).await;
    let admin = service.log_in_as(Role::Admin).await;
    let preflight = async |origin: &str| {
        let request = service.request(Method::OPTIONS, "/customers/1").header("origin", origin);
        let request = request.header("access-control-request-method", "PUT");
        send(request.header("access-control-request-headers", "authorization,if-match")).await
    };
    let allowed = preflight("https://console.example").await;
    assert_eq!(allowed.status, 200);
    let is = |name| allowed.header(name);
    assert_eq!(is("access-control-allow-origin"), Some("https://console.example"));
    assert_eq!(is("access-control-allow-credentials"), Some("true"));
    assert!(is("access-control-allow-methods").unwrap().contains("PUT"));
    assert!(is("access-control-allow-headers").unwrap().contains("if-match"));
    let of_cors = |answer: &crate::harness::Answer| {
        answer.headers.keys().any(|name| name.as_str().starts_with("access-control-"))
    };
    for other in ["https://console.example.evil", "http://console.example", "null"] {
        let answer = preflight(other).await;
        assert_eq!((answer.status, of_cors(&answer)), (204, false), "{other}");
        // For caches: another origin has another answer.
        assert!(answer.header("vary").unwrap().contains("origin"), "{other}");
        let read = send(service.get("/livez").header("origin", other)).await;
        assert_eq!((read.status, of_cors(&read)), (200, false), "{other}");
    }
    // What is no preflight asks what the path can do.
    for (path, status) in [("/customers/1", 204), ("/nothing", 404)] {
        let options = service.request(Method::OPTIONS, path);
        let answer = send(options.header("origin", "https://console.example")).await;
        assert_eq!(answer.status, status, "{path}");
        let answer = send(service.request(Method::OPTIONS, path)).await;
        assert_eq!((answer.status, of_cors(&answer)), (status, false), "{path}");
    }
    let read = service.get("/customers").login(&admin).header("origin", "https://console.example");
    let answer = send(read).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://console.example"));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("event-position"));
    // A request from another origin gets a response, but without the header that lets the page read it.
    let read = service.get("/customers").login(&admin).header("origin", "https://evil.example");
    assert_eq!(send(read).await.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_valid_traceparent_is_recorded() {
    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let later = format!("cc{}-what-comes.later", &VALID[2..]);
    let mut number = 0;
    for (headers, expected) in [
        (vec![VALID.to_owned()], Some(VALID)),
        (vec![later.clone()], Some(later.as_str())),
        (vec![], None),
        (vec!["junk".to_owned()], None),
        (vec!["\u{2028}".to_owned()], None),
        (vec![VALID.to_owned(), VALID.to_owned()], None),
        (vec![VALID.to_uppercase()], None),
        (vec![format!("{VALID}-more")], None),
        (vec![VALID.replace("00-", "ff-")], None),
        (vec![VALID.replace("b7ad6b7169203331", "0000000000000000")], None),
        (vec![VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32))], None),
        (vec![format!("cc{}-{}", &VALID[2..], "x".repeat(300))], None),
    ] {
        let body = serde_json::json!({"name": "Ada", "dob": "1990-12-10"});
        let mut create = service.post("/customers").login(&admin).json(&body);
        for header in &headers {
            create = create.header("traceparent", header.as_bytes());
        }
        assert_eq!(send(create).await.status, 201, "{headers:?}");
        number += 1;
        let feed = format!("/events?customer={number}");
        let feed = send(service.get(&feed).login(&admin)).await;
        let recorded = feed.body["events"][0]["metadata"]["traceparent"].as_str();
        assert_eq!(recorded, expected, "{headers:?}");
    }
    service.stop().await;
}
