//! The deployment files name only services, files, stages, variables and subcommands that exist.
//! The checker takes the text of a file, so a test also runs it on files with a deliberate mistake.

mod compose;
mod kubernetes;
mod systemd;

use std::collections::BTreeSet;

use self::compose::{
    KNOWN, command_problem, entries, is_variable, parse, problems, read, services,
};

const DEV: &str = "docker-compose.yml";
const PROD: &str = "docker-compose.prod.yml";

#[test]
fn the_compose_files_name_only_what_exists() {
    for file in [DEV, PROD] {
        assert_eq!(problems(&read(file)), Vec::<String>::new(), "{file}");
    }
}

/// A file, a right text in it, the wrong text that replaces it, and the expected complaint.
const MISTAKES: [(&str, &str, &str, &str); 25] = [
    (DEV, "services:", "services: [", "not YAML"),
    (DEV, "service_completed_successfully", "service_done", "no condition `service_done`"),
    (DEV, "      demo:\n        cond", "      dummy:\n        cond", "no service `dummy`"),
    (DEV, "    healthcheck:", "    x-healthcheck:", "has no health check"),
    (DEV, "restart: \"no\"", "restart: always", "never completes"),
    (DEV, "\"health\"", "\"wealth\"", "no subcommand `wealth`"),
    (DEV, "[\"migrate\"]", "[\"migrates\"]", "no subcommand `migrates`"),
    (DEV, "--if-empty", "--if-full", "no option `--if-full`"),
    (DEV, "target: test", "target: tests", "no stage `tests`"),
    (DEV, "- demo-keys:", "- locks:", "no volumes entry `locks`"),
    (DEV, "- demo-keys:", "- ./keys:", "no file ./keys"),
    (DEV, "- demo-keys:", "- demo-redis:", "`demo-keys` is declared in volumes and not used"),
    (DEV, "CUSTOMERS_LISTEN:", "CUSTOMERS_LISTENS:", "no variable `CUSTOMERS_LISTENS`"),
    (PROD, "CUSTOMERS_LISTEN:", "CUSTOMERS_LISTEN_FILE:", "no variable `CUSTOMERS_LISTEN_FILE`"),
    (PROD, "${CUSTOMERS_PUBLIC_URL", "${PUBLIC_URL", "no variable `PUBLIC_URL`"),
    (PROD, "/run/secrets/redis_url", "/run/secrets/redis_uri", "not given redis_uri"),
    (PROD, "secrets: [database_url, redis_url]", "secrets: [redis_url]", "not given database_url"),
    (PROD, "[front, back]", "[front, rear]", "no networks entry `rear`"),
    (PROD, "services:", "name: prod\nservices:", "does not understand `name`"),
    (PROD, "secrets:\n  postgres_p", "configs: {}\nsecrets:\n  postgres_p", "understand `configs`"),
    (
        PROD,
        "    volumes:\n      - ./deploy/redis",
        "    configs: [x]\n    volumes:\n      - ./deploy/redis",
        "ignores its `configs`",
    ),
    (PROD, "redis.conf:ro", "redis.conf", "may write to ./deploy/redis.conf"),
    (PROD, "${HTTPS_PORT", "${TLS_PORT", "no variable `TLS_PORT`"),
    (PROD, "./deploy/nginx.conf", "./deploy/nginx.cnf", "no file ./deploy/nginx.cnf"),
    (PROD, "./secrets/tls_key.pem", "./secrets/tls.key", "no file ./secrets/tls.key"),
];

#[test]
fn a_compose_file_with_a_mistake_is_refused() {
    for (file, right, wrong, complaint) in MISTAKES {
        let text = read(file);
        assert!(text.contains(right), "{file} no longer has {right}");
        let found = problems(&text.replace(right, wrong));
        assert!(found.iter().any(|problem| problem.contains(complaint)), "{wrong}: {found:?}");
    }
}

#[test]
fn the_example_environment_lists_every_variable_once() {
    let text = read(".env.example");
    let assignments = text
        .lines()
        .map(|line| line.trim_start_matches('#'))
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace));
    let mut names: Vec<_> = assignments.map(|(name, _)| name.to_owned()).collect();
    names.sort();
    assert_eq!(names, KNOWN.variables.iter().cloned().collect::<Vec<_>>());
}

#[test]
fn development_is_reachable_from_this_machine_only() {
    for (name, service) in services(&parse(&read(DEV)).expect("it is YAML")) {
        for port in entries(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} publishes {port}");
        }
    }
}

#[test]
fn production_runs_without_privileges_and_without_dummy_data() {
    for (name, service) in services(&parse(&read(PROD)).expect("it is YAML")) {
        let user = service["user"].as_str().unwrap_or("0");
        assert!(!user.starts_with('0') && !user.starts_with("root"), "{name} runs as {user}");
        assert_eq!(service["read_only"], true, "{name}: the root file system is writable");
        assert_eq!(entries(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(entries(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert!(!entries(&service["command"]).contains(&"demo".to_owned()), "{name}");
    }
}

#[test]
fn neither_compose_file_uses_the_data_of_the_other() {
    let [dev, prod] = [DEV, PROD].map(|file| parse(&read(file)).expect("it is YAML"));
    let (dev, prod) = (entries(&dev["volumes"]), entries(&prod["volumes"]));
    assert!(dev.iter().all(|volume| !prod.contains(volume)), "{dev:?}, {prod:?}");
}

#[test]
fn production_keeps_secrets_out_of_the_environment() {
    for (name, service) in services(&parse(&read(PROD)).expect("it is YAML")) {
        for (variable, value) in service["environment"].as_mapping().into_iter().flatten() {
            let (variable, value) = (variable.as_str().unwrap_or_default(), value.as_str());
            let is_secret = variable.contains("PASSWORD") || variable.contains("URL_FILE");
            assert!(!is_secret || variable.ends_with("_FILE"), "{name} has {variable}");
            assert!(!value.is_some_and(|value| value.contains('@')), "{name}: {variable}");
        }
    }
}

#[test]
fn a_process_may_drain_before_it_is_killed() {
    let file = parse(&read(PROD)).expect("it is YAML");
    let service = &file["services"]["customers"];
    let seconds = |text: &str| humantime::parse_duration(text).expect("a duration").as_secs();
    let drain =
        seconds(service["environment"]["CUSTOMERS_DRAIN_DELAY"].as_str().expect("it is set"));
    // The rest of a shutdown takes at most 11 s: requests 5 s, appends 2 s, tasks 2 s, pools 1 s.
    let grace = seconds(service["stop_grace_period"].as_str().expect("it is set"));
    assert!(drain + 11 < grace, "{drain} s, {grace} s");
}

#[test]
fn nginx_and_the_production_file_agree() {
    let conf = read("deploy/nginx.conf");
    let file = parse(&read(PROD)).expect("it is YAML");
    let after = |word: &str| -> BTreeSet<String> {
        let found = conf.lines().filter_map(|line| line.trim().strip_prefix(word));
        found
            .filter_map(|rest| rest.trim_end_matches(';').split_whitespace().next())
            .map(|argument| argument.trim_end_matches(';').to_owned())
            .collect()
    };
    let (nginx, service) = (&file["services"]["nginx"], &file["services"]["customers"]);

    let published = entries(&nginx["ports"]);
    let targets = published.iter().filter_map(|port| port.rsplit(':').next()).map(str::to_owned);
    assert_eq!(targets.collect::<BTreeSet<_>>(), after("listen "));

    let listen = service["environment"]["CUSTOMERS_LISTEN"].as_str().expect("it is set");
    let port = listen.rsplit(':').next().expect("it has a port");
    assert_eq!(after("set $service "), BTreeSet::from([format!("customers:{port}")]));
    assert_eq!(after("proxy_pass "), BTreeSet::from(["http://$service".to_owned()]));

    let mut keys = after("ssl_certificate ");
    keys.extend(after("ssl_certificate_key "));
    keys.extend(after("include "));
    let given = entries(&nginx["secrets"]);
    assert_eq!(keys, given.iter().map(|secret| format!("/run/secrets/{secret}")).collect());

    let subnet = &file["networks"]["front"]["ipam"]["config"][0]["subnet"];
    assert_eq!(&service["environment"]["CUSTOMERS_TRUSTED_PROXIES"], subnet);
}

#[test]
fn the_image_is_built_and_started_with_what_exists() {
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains(&format!("FROM rust:{}-", env!("CARGO_PKG_RUST_VERSION"))));
    // A frontend is fetched from a registry, also where all base images are there already.
    assert!(!dockerfile.contains("syntax="), "the image is built with the builder's own frontend");
    assert!(!dockerfile.contains("--mount"), "it is built without BuildKit, too");
    let (_, runtime) = dockerfile.split_once(" AS runtime").expect("there is a runtime stage");
    for line in runtime.lines().take_while(|line| !line.starts_with("FROM ")) {
        if let Some(command) = line.strip_prefix("CMD ") {
            let words: Vec<String> = serde_json::from_str(command).expect("CMD is a JSON list");
            assert_eq!(command_problem(&words), None);
        }
        for assignment in line.strip_prefix("ENV ").into_iter().flat_map(str::split_whitespace) {
            let name = assignment.split('=').next().expect("a split has a first part");
            assert!(is_variable(name), "{name}");
        }
    }
}
