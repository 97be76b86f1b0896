//! A first client: `cargo run --example client`. docs/clients.md shows it, and a test runs it.

use reqwest::header::{AUTHORIZATION, COOKIE, ETAG, HeaderMap, IF_MATCH, LOCATION, SET_COOKIE};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

/// What can go wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The service, and the headers of the log-in.
struct Api {
    url: String,
    client: Client,
    headers: HeaderMap,
}

impl Api {
    /// Sends a request; an answer of another status than the expected one is an error.
    async fn ask(
        &self,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: Option<&Value>,
        expected: StatusCode,
    ) -> Result<Response, Failure> {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.headers(self.headers.clone());
        let request = body.into_iter().fold(request, reqwest::RequestBuilder::json);
        let response = request.send().await?;
        if response.status() != expected {
            return Err(format!("{path}: {} {}", response.status(), response.text().await?).into());
        }
        Ok(response)
    }

    async fn log_in(url: &str) -> Result<Self, Failure> {
        let mut api =
            Self { url: url.to_owned(), client: Client::new(), headers: HeaderMap::new() };
        let account = json!({"username": "demo", "password": "demo-password"});
        let answer = api.ask((Method::POST, "/login"), &[], Some(&account), StatusCode::OK).await?;
        let cookie = answer.headers().get(SET_COOKIE).ok_or("no cookie")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().parse()?;
        let token = answer.json::<Value>().await?;
        let token = token["access_token"].as_str().ok_or("no token")?;
        api.headers.insert(COOKIE, cookie);
        api.headers.insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
        Ok(api)
    }
}

/// Does what docs/clients.md says, and returns the lines of it.
pub async fn session(url: &str) -> Result<Vec<String>, Failure> {
    let api = Api::log_in(url).await?;
    let mut said = vec![];

    let ada = json!({"name": "Ada Byron", "dob": "1990-12-10"});
    let key = format!("client-{}", std::process::id());
    let key = [("idempotency-key", key.as_str())];
    let create = || api.ask((Method::POST, "/customers"), &key, Some(&ada), StatusCode::CREATED);
    let answer = create().await?;
    let path = answer.headers().get(LOCATION).ok_or("no location")?.to_str()?.to_owned();
    let etag = answer.headers().get(ETAG).ok_or("no entity tag")?.to_str()?.to_owned();
    let created: Value = answer.json().await?;
    // The repetition of a client that got no answer.
    if create().await?.json::<Value>().await?["id"] != created["id"] {
        return Err("created twice".into());
    }
    said.push(format!("created customer {} at version {}", created["id"], created["version"]));
    let read = api.ask((Method::GET, &path), &[], None, StatusCode::OK).await?;
    let read: Value = read.json().await?;
    said.push(format!("read {}", read["name"].as_str().unwrap_or_default()));

    let married = json!({"name": "Ada Lovelace", "dob": "1990-12-10"});
    let headers = [(IF_MATCH.as_str(), etag.as_str()), ("x-reason", "married")];
    let changed = api.ask((Method::PUT, &path), &headers, Some(&married), StatusCode::OK).await?;
    said.push(format!("changed to version {}", changed.json::<Value>().await?["version"]));
    let late = json!({"name": "Ada King", "dob": "1990-12-10"});
    let conflict = StatusCode::PRECONDITION_FAILED;
    let problem = api.ask((Method::PUT, &path), &headers[..1], Some(&late), conflict).await?;
    let problem: Value = problem.json().await?;
    said.push(format!("conflict: {}", problem["detail"].as_str().unwrap_or_default()));

    let (mut customers, mut next) = (vec![], Some(String::new()));
    while let Some(after) = next {
        let query = if after.is_empty() { after } else { format!("&after={after}") };
        let page = format!("/customers?limit=50{query}");
        let page = api.ask((Method::GET, &page), &[], None, StatusCode::OK).await?;
        let mut page: Value = page.json().await?;
        customers.extend(page["customers"].as_array_mut().map(std::mem::take).unwrap_or_default());
        next = page["next"].as_str().map(str::to_owned);
    }
    if !customers.iter().any(|customer| customer["id"] == created["id"]) {
        return Err("not listed".into());
    }
    said.push(format!("found it among {} customers", customers.len()));

    api.ask((Method::DELETE, &path), &[], None, StatusCode::OK).await?;
    said.push("deleted".to_owned());
    api.ask((Method::DELETE, "/logout"), &[], None, StatusCode::OK).await?;
    said.push("logged out".to_owned());
    Ok(said)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = std::env::var("API").unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
    for line in session(&url).await? {
        println!("{line}");
    }
    Ok(())
}
