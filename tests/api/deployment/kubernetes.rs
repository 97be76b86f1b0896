//! The manifests of `deploy/kubernetes` name only variables, commands, routes, Secrets and volumes that exist, and
//! give their pods no right that they do not need. `script/interop` validates them against the schemas of Kubernetes.

use std::collections::BTreeSet;

use customers::api;
use serde::Deserialize as _;
use serde_yaml_ng::{Deserializer, Value};

use super::compose::{command_problem, entries, is_variable, read};

/// The manifests, with the names of their files.
fn manifests() -> Vec<(String, Value)> {
    let mut found = vec![];
    for entry in std::fs::read_dir("deploy/kubernetes").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = read(&format!("deploy/kubernetes/{name}"));
        let documents = Deserializer::from_str(&text).map(|one| Value::deserialize(one).unwrap());
        found.extend(documents.map(|document| (name.clone(), document)));
    }
    found
}

/// The manifests of one kind.
fn of_kind(kind: &str) -> Vec<Value> {
    let all = manifests().into_iter().map(|(_, manifest)| manifest);
    let found: Vec<Value> = all.filter(|manifest| manifest["kind"] == kind).collect();
    assert!(!found.is_empty(), "there is no {kind}");
    found
}

/// The specifications of all pods.
fn pods() -> Vec<Value> {
    let owners = of_kind("Deployment").into_iter().chain(of_kind("Job"));
    owners.map(|owner| owner["spec"]["template"]["spec"].clone()).collect()
}

fn sequence(value: &Value) -> Vec<Value> {
    value.as_sequence().cloned().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is no text"))
}

/// The values that a Secret of the example has.
fn secret(name: &str) -> Vec<String> {
    let named = of_kind("Secret").into_iter().find(|secret| secret["metadata"]["name"] == name);
    entries(&named.unwrap_or_else(|| panic!("there is no Secret {name}"))["stringData"])
}

#[test]
fn the_kustomization_has_every_manifest_but_the_examples() {
    let kustomization = &of_kind("Kustomization")[0];
    let listed: BTreeSet<String> = entries(&kustomization["resources"]).into_iter().collect();
    let files: BTreeSet<String> = manifests().into_iter().map(|(name, _)| name).collect();
    let left_out = ["kustomization.yaml", "secrets.example.yaml"];
    let expected = files.into_iter().filter(|name| !left_out.contains(&name.as_str()));
    assert_eq!(listed, expected.collect());
    // Its tag is the version of the program.
    assert_eq!(kustomization["images"][0]["newTag"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_manifests_name_only_what_exists() {
    let maps = of_kind("ConfigMap");
    for name in maps.iter().flat_map(|map| entries(&map["data"])) {
        assert!(is_variable(&name), "there is no variable {name}");
    }
    let routes: Vec<&str> = api::routes().into_iter().map(|route| route.path).collect();
    for pod in pods() {
        let volumes = sequence(&pod["volumes"]);
        let mut used = BTreeSet::new();
        for container in sequence(&pod["containers"]) {
            assert_eq!(command_problem(&entries(&container["args"])), None);
            let mounts = sequence(&container["volumeMounts"]);
            for variable in sequence(&container["env"]) {
                assert!(is_variable(text(&variable["name"])), "{variable:?}");
                let path = text(&variable["value"]);
                let Some((folder, file)) = path.rsplit_once('/') else { continue };
                let mount = mounts.iter().find(|mount| mount["mountPath"] == folder).unwrap();
                let volume = volumes.iter().find(|one| one["name"] == mount["name"]).unwrap();
                let keys = secret(text(&volume["secret"]["secretName"]));
                assert!(keys.iter().any(|key| key == file), "{path} is in no Secret");
            }
            for from in sequence(&container["envFrom"]) {
                let name = &from["configMapRef"]["name"];
                assert!(maps.iter().any(|map| &map["metadata"]["name"] == name), "{from:?}");
            }
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                let path = container[probe]["httpGet"]["path"].as_str();
                assert!(path.is_none_or(|path| routes.contains(&path)), "{path:?} is no route");
            }
            used.extend(mounts.iter().map(|mount| text(&mount["name"]).to_owned()));
        }
        let declared = volumes.iter().map(|volume| text(&volume["name"]).to_owned());
        assert_eq!(declared.collect::<BTreeSet<_>>(), used);
        for volume in &volumes {
            let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() else {
                continue;
            };
            let claims = of_kind("PersistentVolumeClaim");
            assert!(claims.iter().any(|known| known["metadata"]["name"] == claim), "{claim}");
        }
    }
}

#[test]
fn each_selector_finds_the_pods_of_the_service_and_no_others() {
    let deployment = &of_kind("Deployment")[0];
    let of_service = &deployment["spec"]["template"]["metadata"]["labels"];
    let of_migration = &of_kind("Job")[0]["spec"]["template"]["metadata"]["labels"];
    let fits = |selector: &Value, labels: &Value| {
        selector.as_mapping().unwrap().iter().all(|(name, value)| &labels[name] == value)
    };
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &of_kind("Service")[0]["spec"]["selector"],
        &of_kind("PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"],
    ] {
        assert!(fits(selector, of_service) && !fits(selector, of_migration), "{selector:?}");
    }
    let target = &of_kind("HorizontalPodAutoscaler")[0]["spec"]["scaleTargetRef"];
    assert_eq!(target["name"], deployment["metadata"]["name"]);
    // Otherwise each update of the manifests would undo what the autoscaler has set.
    assert!(deployment["spec"]["replicas"].is_null());
}

#[test]
fn pods_run_without_privileges_and_know_only_the_secrets_that_they_need() {
    for pod in pods() {
        let of_pod = &pod["securityContext"];
        assert_eq!(of_pod["runAsNonRoot"], true);
        assert_eq!(of_pod["runAsUser"], 10001, "the user of the image");
        assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
        for container in sequence(&pod["containers"]) {
            let of_container = &container["securityContext"];
            assert_eq!(of_container["readOnlyRootFilesystem"], true);
            assert_eq!(of_container["allowPrivilegeEscalation"], false);
            assert_eq!(entries(&of_container["capabilities"]["drop"]), ["ALL"]);
            assert!(container["resources"]["limits"]["memory"].is_string());
            let serves = entries(&container["args"]) == ["serve"];
            let knows_owner = serde_yaml_ng::to_string(&pod).unwrap().contains("owner");
            assert_eq!(serves, !knows_owner, "only the migration is the owner of the tables");
        }
    }
    assert!(read("Dockerfile").contains("USER 10001:10001"));
}

#[test]
fn a_pod_may_drain_before_it_is_killed() {
    let delay = text(&of_kind("ConfigMap")[0]["data"]["CUSTOMERS_DRAIN_DELAY"]).to_owned();
    let delay = humantime::parse_duration(&delay).unwrap().as_secs();
    let pod = &of_kind("Deployment")[0]["spec"]["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(delay + 11 < grace, "{delay} s, {grace} s");
}
