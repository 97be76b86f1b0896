//! Two processes behind nginx, restarted in turn under load, as an upgrade does it: no request fails, and none is
//! carried out twice. nginx has the configuration of `deploy/nginx.conf`, without TLS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use customers::events::values::Role;
use reqwest::{Client, Method};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{
    Login, Service, With as _, config_on, database, folder, send, until, variables,
};
use crate::nginx::{Nginx, free_port};
use crate::process::{Process, command};

/// How often each process is restarted, and how many requests are sent per second meanwhile.
fn size() -> (u32, u32) {
    if std::env::var_os("CUSTOMERS_TEST_LONG").is_some() { (10, 1000) } else { (1, 100) }
}

/// How often requests are sent; each time a part of those of a second.
const TICK: Duration = Duration::from_millis(10);

/// The customers that are changed and read.
const CUSTOMERS: u32 = 20;

/// The requests, at a fixed rate, however long their answers take.
struct Load {
    client: Client,
    url: String,
    login: Login,
    sent: AtomicU32,
    created: AtomicU32,
    failures: Mutex<Vec<String>>,
    ends: AtomicBool,
}

impl Load {
    /// One request: one in ten creates a customer, one in ten changes one.
    async fn request(&self, number: u32) {
        let customer = format!("/customers/{}", number % CUSTOMERS + 1);
        let (method, path, expected) = match number % 10 {
            0 => (Method::POST, "/customers", 201),
            1 => (Method::PUT, customer.as_str(), 200),
            _ => (Method::GET, customer.as_str(), 200),
        };
        let request = self.client.request(method.clone(), format!("{}{path}", self.url));
        let mut request = request.header("host", "customers.test").login(&self.login);
        if method != Method::GET {
            request = request.json(&json!({"name": format!("Ada {number}"), "dob": "1990-12-10"}));
        }
        let answer = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>((status, response.text().await?))
        };
        match answer.await {
            Ok((201, _)) if method == Method::POST => {
                self.created.fetch_add(1, Ordering::Relaxed);
            }
            Ok((status, _)) if status == expected => {}
            Ok((status, text)) => self.failed(format!("{method} {path}: {status} {text}")),
            Err(error) => self.failed(format!("{method} {path}: {error:?}")),
        }
    }

    fn failed(&self, failure: String) {
        self.failures.lock().unwrap().push(failure);
    }

    /// Sends requests until the load ends, and waits for their answers.
    async fn run(self: Arc<Self>, per_second: u32) {
        let per_tick = per_second / 100;
        let mut ticks = tokio::time::interval(TICK);
        let mut requests = JoinSet::new();
        while !self.ends.load(Ordering::Relaxed) {
            ticks.tick().await;
            for _ in 0..per_tick {
                let number = self.sent.fetch_add(1, Ordering::Relaxed);
                let load = Arc::clone(&self);
                requests.spawn(async move { load.request(number).await });
            }
            while requests.try_join_next().is_some() {}
        }
        requests.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_restarted_in_turn_behind_nginx_fail_no_request() {
    let (restarts, per_second) = size();
    let database = database().await;
    let setup = Service::with(config_on(&database)).await;
    let editor = setup.log_in_as(Role::Editor).await;
    for _ in 0..CUSTOMERS {
        let ada = json!({"name": "Ada", "dob": "1990-12-10"});
        assert_eq!(send(setup.post("/customers").login(&editor).json(&ada)).await.status, 201);
    }
    setup.stop().await;

    let variables = variables(&database);
    let place = folder("rolling");
    let ports = [free_port(), free_port()];
    let start = async |port: u16| {
        let mut serve = command(&["serve"], &place);
        serve.envs(variables.iter().map(|(name, value)| (*name, value)));
        serve.env("CUSTOMERS_LISTEN", format!("127.0.0.1:{port}"));
        serve.env("CUSTOMERS_DRAIN_DELAY", "500ms");
        Process::start(serve).await
    };
    let addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut processes = vec![];
    for port in ports {
        processes.push(start(port).await);
    }
    let Some(nginx) = Nginx::without_tls(&addresses).await else { return };
    let login = processes[0].log_in("editor").await;

    let load = Arc::new(Load {
        client: Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap(),
        url: format!("http://127.0.0.1:{}", nginx.https),
        login,
        sent: AtomicU32::new(0),
        created: AtomicU32::new(0),
        failures: Mutex::default(),
        ends: AtomicBool::new(false),
    });
    let began = Instant::now();
    let running = tokio::spawn(Arc::clone(&load).run(per_second));
    for round in 0..restarts {
        for (turn, port) in ports.into_iter().enumerate() {
            let sent = load.sent.load(Ordering::Relaxed);
            until("there is load", async || {
                load.sent.load(Ordering::Relaxed) > sent + per_second / 2
            })
            .await;
            let old = processes.remove(0);
            assert_eq!(old.end(Signal::TERM).await, Some(0), "round {round}, process {turn}");
            let new = start(port).await;
            until("it is ready", async || {
                send(new.request(Method::GET, "/readyz")).await.status == 200
            })
            .await;
            processes.push(new);
        }
    }
    let (sent, seconds) = (load.sent.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    load.ends.store(true, Ordering::Relaxed);
    running.await.unwrap();

    let failures = load.failures.lock().unwrap().clone();
    assert!(failures.is_empty(), "{} of {sent}, the first: {:?}", failures.len(), failures.first());
    let rate = f64::from(sent) / seconds;
    assert!(rate > 0.9 * f64::from(per_second), "only {rate:.0} requests per second");
    println!("{sent} requests, {rate:.0}/s, {} restarts: none failed", restarts * 2);
    let list = processes[0].request(Method::GET, "/customers").login(&load.login);
    let number = send(list).await.body["number"].as_u64().unwrap();
    assert_eq!(number, u64::from(CUSTOMERS + load.created.load(Ordering::Relaxed)));
    for process in processes {
        assert_eq!(process.end(Signal::TERM).await, Some(0));
    }
}
