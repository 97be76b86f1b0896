//! `GET /me`: an account is told who it is, and until when.

use customers::clock;
use customers::events::values::Role;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Service, With as _, send};
use crate::sessions::{sid, verdict};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_account_is_told_who_it_is_and_until_when() {
    let service = Service::start().await;
    for role in Role::ALL {
        let login = service.log_in_as(role).await;
        let ends = service.hands.clock().now() + service.config.token_ttl;
        let me = send(service.get("/me").login(&login)).await;
        let expected = json!({
            "username": role.as_str(), "role": role.as_str(), "sid": sid(&login),
            "expires_at": clock::rfc3339(ends),
        });
        assert_eq!((me.status, &me.body), (200, &expected));
        let head = send(service.request(Method::HEAD, "/me").login(&login)).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""));
        assert_eq!(head.header("content-length"), Some(me.text.len().to_string().as_str()));
    }
    let viewer = service.log_in("viewer").await;
    assert_eq!(verdict(service.get("/me")).await, "401 unauthenticated");
    assert_eq!(verdict(service.get("/me?x=1").login(&viewer)).await, "400 malformed");
    // The time that is told is the one that counts, but for the leeway between clocks.
    let ttl = i64::try_from(service.config.token_ttl.as_secs()).unwrap();
    service.hands.forward(ttl - 1);
    assert_eq!(verdict(service.get("/me").login(&viewer)).await, "200");
    service.hands.forward(1 + 5);
    assert_eq!(verdict(service.get("/me").login(&viewer)).await, "401 unauthenticated");
    service.stop().await;
}
