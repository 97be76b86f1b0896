//! The verification of tokens: forged, malformed and foreign tokens, claims, times and published keys.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use customers::events::values::Role;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};

use crate::harness::{Login, Service, With as _, send};
use crate::sessions::{token_alone, verdict};

/// The claims of a token, without a check of its signature.
pub fn claims(login: &Login) -> Value {
    part(login, 1)
}

fn part(login: &Login, index: usize) -> Value {
    let part = login.token.split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn encoded(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

pub fn kid(login: &Login) -> String {
    part(login, 0)["kid"].as_str().unwrap().to_owned()
}

/// The private key with this id in the keys folder.
fn signing_key(folder: &Path, kid: &str) -> EncodingKey {
    let pem = std::fs::read_to_string(folder.join(format!("{kid}.pem"))).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    EncodingKey::from_ed_der(&BASE64_STANDARD.decode(body).unwrap())
}

fn header(kid: &str) -> Header {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some(kid.to_owned());
    header
}

/// A service, the claims of a valid token, and its private key, to sign changed tokens.
struct Forge {
    service: Service,
    login: Login,
    kid: String,
    claims: Value,
    key: EncodingKey,
}

impl Forge {
    async fn start() -> Self {
        let service = Service::start().await;
        let login = service.log_in_as(Role::Viewer).await;
        let kid = kid(&login);
        let key = signing_key(&service.config.keys_dir, &kid);
        let forge = Self { claims: claims(&login), service, login, kid, key };
        // An unchanged token that the test signs is accepted, so a changed one is refused for its change.
        assert_eq!(forge.try_claims(&forge.claims).await, "200");
        forge
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }

    async fn try_claims(&self, claims: &Value) -> String {
        self.try_token(&self.sign(&header(&self.kid), claims)).await
    }

    async fn try_header(&self, header: &Header) -> String {
        self.try_token(&self.sign(header, &self.claims)).await
    }

    async fn try_token(&self, token: &str) -> String {
        verdict(self.service.get("/customers?numbers=0").bearer_auth(token)).await
    }

    /// The claims with one value replaced.
    fn with(&self, name: &str, value: impl Into<Value>) -> Value {
        let mut claims = self.claims.clone();
        claims[name] = value.into();
        claims
    }

    fn seconds(&self, name: &str) -> i64 {
        self.claims[name].as_i64().unwrap()
    }
}

const REFUSED: &str = "401 unauthenticated";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_nobody_comes_in() {
    let forge = Forge::start().await;
    let token = &forge.login.token;
    let get = || forge.service.get("/customers?numbers=0");
    let answer = send(get()).await;
    insta::assert_snapshot!(
        answer.shape(),
        @r#"401 {"detail":"a valid token and its session are required","request_id":"[id]","status":401,"title":"Unauthenticated","type":"/problems/unauthenticated"}"#
    );
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let long = "x".repeat(5000);
    for value in ["Bearer", "Bearer ", "Basic YTpi", "Bearer a.b.c", token, &long] {
        assert_eq!(verdict(get().header("authorization", value)).await, REFUSED, "{value}");
    }
    assert_eq!(verdict(get().token(&forge.login).token(&forge.login)).await, REFUSED);
    let in_query = format!("/customers?access_token={token}");
    assert_eq!(verdict(forge.service.get(&in_query)).await, REFUSED);
    // The scheme is case-insensitive (RFC 9110, section 11.1).
    assert_eq!(verdict(get().header("authorization", format!("bearer {token}"))).await, "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_a_signature_is_refused() {
    let forge = Forge::start().await;
    for alg in ["none", "None", "NONE", ""] {
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": forge.kid});
        let unsigned = format!("{}.{}", encoded(&header), encoded(&forge.claims));
        let signature = forge.login.token.rsplit('.').next().unwrap();
        for token in [format!("{unsigned}."), unsigned.clone(), format!("{unsigned}.{signature}")] {
            assert_eq!(forge.try_token(&token).await, REFUSED, "{token}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_key_is_no_secret_to_sign_with() {
    let forge = Forge::start().await;
    let jwks = send(forge.service.get("/.well-known/jwks.json")).await;
    let x = jwks.body["keys"][0]["x"].as_str().unwrap();
    let raw = BASE64_URL_SAFE_NO_PAD.decode(x).unwrap();
    let file = forge.service.config.keys_dir.join(format!("{}.pem", forge.kid));
    let pem = std::fs::read(file).unwrap();
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let mut header = header(&forge.kid);
        header.alg = algorithm;
        for secret in [raw.as_slice(), x.as_bytes(), pem.as_slice()] {
            let key = EncodingKey::from_secret(secret);
            let token = jsonwebtoken::encode(&header, &forge.claims, &key).unwrap();
            assert_eq!(forge.try_token(&token).await, REFUSED, "{algorithm:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_token_is_refused() {
    let forge = Forge::start().await;
    forge.service.log_in_as(Role::Admin).await;
    let parts: Vec<_> = forge.login.token.split('.').collect();
    let [head, body, signature] = parts[..] else { unreachable!() };
    let payload = encoded(&forge.with("sub", "admin"));
    let later = encoded(&forge.with("exp", forge.seconds("exp") + 1));
    for token in [
        format!("{head}.{payload}.{signature}"),
        format!("{head}.{later}.{signature}"),
        format!("{head}.{body}.{}", "A".repeat(signature.len())),
        format!("{head}.{body}."),
        format!("{head}.{body}.{signature}.{signature}"),
    ] {
        assert_eq!(forge.try_token(&token).await, REFUSED, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_our_keys_and_our_kind_of_token_count() {
    let forge = Forge::start().await;
    for typ in [Some("JWT"), Some("at+JWT "), Some(""), None] {
        let mut header = header(&forge.kid);
        header.typ = typ.map(str::to_owned);
        assert_eq!(forge.try_header(&header).await, REFUSED, "{typ:?}");
    }
    let path = forge.service.config.keys_dir.join(&forge.kid).display().to_string();
    let kids = [
        "0198c0de-0000-7000-8000-000000000000",
        "",
        &format!("../{}", forge.kid),
        &format!("{}.pem", forge.kid),
        &path,
        "../../../../../../dev/null",
        "' or '1'='1",
        "x'; drop table accounts; --",
    ];
    for kid in kids {
        assert_eq!(forge.try_header(&header(kid)).await, REFUSED, "{kid}");
    }
    let mut without = header("");
    without.kid = None;
    assert_eq!(forge.try_header(&without).await, REFUSED);
    assert_eq!(token_alone(&forge.service, &forge.login).await, "200");

    // The key parameters of a header (`jku`, `x5u`, `jwk`) are ignored, whatever they contain.
    let jwk =
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let place = "http://127.0.0.1:1/keys.json".to_owned();
    let mut elsewhere = header(&forge.kid);
    elsewhere.jku = Some(place.clone());
    elsewhere.x5u = Some(place);
    elsewhere.jwk = Some(serde_json::from_value(jwk).unwrap());
    assert_eq!(forge.try_header(&elsewhere).await, "200");
    elsewhere.kid = None;
    assert_eq!(forge.try_header(&elsewhere).await, REFUSED);

    // A key of another installation with the key id of this one.
    let other = Forge::start().await;
    let token = other.sign(&header(&forge.kid), &forge.claims);
    assert_eq!(forge.try_token(&token).await, REFUSED);
    assert_eq!(forge.try_token(&other.login.token).await, REFUSED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_claim_is_needed_and_checked() {
    let forge = Forge::start().await;
    for name in ["iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp"] {
        let mut claims = forge.claims.clone();
        claims.as_object_mut().unwrap().remove(name).unwrap();
        assert_eq!(forge.try_claims(&claims).await, REFUSED, "without {name}");
        assert_eq!(forge.try_claims(&forge.with(name, Value::Null)).await, REFUSED, "{name} null");
    }
    for name in ["iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp"] {
        let right = &forge.claims[name];
        let mut wrong = vec![json!([right]), json!({"value": right}), json!(true)];
        wrong.push(if right.is_string() { json!(1) } else { json!(right.to_string()) });
        for value in wrong {
            let told = forge.try_claims(&forge.with(name, value.clone())).await;
            assert_eq!(told, REFUSED, "{name}: {value}");
        }
    }
    forge.service.log_in_as(Role::Editor).await;
    for (name, value) in [
        ("iss", "http://elsewhere.test"),
        ("aud", "others"),
        ("sub", "editor"),
        ("sub", "nobody"),
        ("sid", "another"),
        ("jti", "another"),
    ] {
        assert_eq!(forge.try_claims(&forge.with(name, value)).await, REFUSED, "{name} {value}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_only_in_its_time() {
    const DAY: i64 = 24 * 60 * 60;
    let forge = Forge::start().await;
    let now = forge.seconds("iat");
    let (nbf, exp) = (forge.with("nbf", now + 60), forge.with("exp", now - 60));
    for (what, claims) in [
        ("not yet", nbf),
        ("expired", exp),
        ("issued later", forge.with("iat", now + 60)),
        ("lives longer than any", forge.with("exp", now + DAY + 1)),
        ("for ever", forge.with("exp", i64::MAX)),
        ("ended before it began", forge.with("exp", i64::MIN)),
    ] {
        assert_eq!(forge.try_claims(&claims).await, REFUSED, "{what}");
    }
    // The leeway allows for clock skew between machines.
    assert_eq!(forge.try_claims(&forge.with("nbf", now + 5)).await, "200");
    forge.service.hands.forward(-3);
    assert_eq!(token_alone(&forge.service, &forge.login).await, "200");
    forge.service.hands.forward(-3);
    assert_eq!(token_alone(&forge.service, &forge.login).await, REFUSED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_with_the_same_keys_accept_each_others_tokens() {
    let here = Service::start().await;
    let login = here.log_in_as(Role::Viewer).await;
    let there = Service::with(here.config.clone()).await;
    assert_eq!(token_alone(&there, &login).await, "200");
    // Only a process that starts after the key was added signs with it.
    let newer = Forge::start().await;
    let file = format!("{}.pem", newer.kid);
    let (from, to) = (&newer.service.config.keys_dir, &here.config.keys_dir);
    std::fs::copy(from.join(&file), to.join(&file)).unwrap();
    let last = Service::with(here.config.clone()).await;
    let late = last.log_in("viewer").await;
    assert_eq!(kid(&late), newer.kid);
    for service in [&here, &there, &last] {
        assert_eq!(token_alone(service, &late).await, "200");
        assert_eq!(token_alone(service, &login).await, "200");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anybody_can_verify_a_token_with_the_published_keys() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let jwks = send(service.get("/.well-known/jwks.json")).await;
    let keys = jwks.body["keys"].as_array().unwrap();
    let jwk = keys.iter().find(|jwk| jwk["kid"] == kid(&login)).unwrap();
    let key = DecodingKey::from_ed_components(jwk["x"].as_str().unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["customers"]);
    validation.set_issuer(&["http://customers.test"]);
    let token = jsonwebtoken::decode::<Value>(&login.token, &key, &validation).unwrap();
    assert_eq!(token.claims["sub"], "viewer");
    assert_eq!(token.header.typ.as_deref(), Some("at+jwt"));
    assert_eq!(token.claims, claims(&login));
}
