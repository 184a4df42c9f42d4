//! Rules about who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Problem, QUERY_LIMIT};
use crate::{device::FEATURES, sh};

/// The network stack. Everything else speaks to `ioex-net`.
const NETWORK: &[&str] =
    &["iroh", "iroh-*", "n0-*", "noq", "noq-*", "quinn", "quinn-*", "rustls", "rcgen", "spake2"];

/// What pure crates never reach, not even through others: no runtime, no sockets.
const RUNTIME: &[&str] = &["tokio", "ioex-net", "iroh", "iroh-*", "noq", "quinn", "mio"];

/// Crates that decide and compute but leave waiting and moving bytes to others.
const STILL: &[&str] = &["ioex-base", "ioex-ota", "ioex-store", "ioex-vault"];

/// What a device never carries.
const NOT_ON_DEVICES: &[&str] = &["ioex-chain*", "ioex-site*", "ioex-evm*", "revm", "revm-*", "alloy-*"];

/// Dependencies that we do not take, and what is used in their place.
const BANNED: &[(&str, &str)] = &[
    ("openssl", "ring"),
    ("openssl-sys", "ring"),
    ("native-tls", "rustls with ring"),
    ("aws-lc-rs", "ring: one TLS backend"),
    ("aws-lc-sys", "ring: one TLS backend"),
    ("async-std", "tokio"),
    ("failure", "thiserror"),
    ("error-chain", "thiserror"),
    ("structopt", "clap"),
    ("serde_yaml", "toml"),
];

/// Packages and who needs whom, as cargo resolved it.
pub(crate) struct Graph {
    /// By id.
    packages: BTreeMap<String, Package>,
}

/// One resolved package.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// SPDX expression.
    pub(crate) license: Option<String>,
    /// Whether it is ours.
    pub(crate) ours: bool,
    /// Names of direct dependencies of every kind, as its manifest has them.
    declared: Vec<String>,
    /// Declared features.
    features: Vec<String>,
    /// Ids of what it is built with (development and build dependencies aside).
    built_with: Vec<String>,
}

impl Graph {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let text = sh::output(&mut sh::cargo(["metadata", "--format-version", "1"]), QUERY_LIMIT)?;
        Self::parse(&serde_json::from_str(&text).context("cargo metadata printed no JSON")?)
    }

    fn parse(metadata: &Value) -> Result<Self> {
        let mut packages = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            packages.insert(text(&package["id"])?, Package::parse(package)?);
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let built_with = list(&node["deps"])
                .filter(|dep| list(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null()))
                .map(|dep| text(&dep["pkg"]))
                .collect::<Result<_>>()?;
            if let Some(package) = packages.get_mut(&text(&node["id"])?) {
                package.built_with = built_with;
            }
        }
        Ok(Self { packages })
    }

    /// Everything in the tree.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }

    fn ours(&self) -> impl Iterator<Item = &Package> {
        self.packages().filter(|package| package.ours)
    }

    /// Names of everything that is linked into `name`.
    fn closure(&self, name: &str) -> BTreeSet<&str> {
        let mut open: Vec<&str> = self
            .packages
            .iter()
            .filter(|(_, package)| package.ours && package.name == name)
            .map(|(id, _)| id.as_str())
            .collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(
                    self.packages.get(id).iter().flat_map(|package| &package.built_with).map(|id| &**id),
                );
            }
        }
        seen.iter().filter_map(|id| self.packages.get(*id)).map(|package| &*package.name).collect()
    }
}

impl Package {
    fn parse(package: &Value) -> Result<Self> {
        let features = package["features"].as_object();
        Ok(Self {
            name: text(&package["name"])?,
            version: text(&package["version"])?,
            license: package["license"].as_str().map(str::to_owned),
            ours: package["source"].is_null(),
            declared: list(&package["dependencies"]).map(|dep| text(&dep["name"])).collect::<Result<_>>()?,
            features: features.into_iter().flat_map(|map| map.keys().cloned()).collect(),
            built_with: Vec::new(),
        })
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).context("cargo metadata has an unexpected form")
}

/// All rules.
pub(super) fn check(graph: &Graph, lock: &str) -> Result<Vec<Problem>> {
    let mut problems = network_outside_net(graph);
    problems.extend(runtime_in_pure_crates(graph));
    problems.extend(banned(lock));
    if let Some(tree) = device_tree(graph)? {
        problems.extend(chain_on_devices(&tree));
    }
    Ok(problems)
}

/// Whether a package name is on a list, whose entries may end in `*`.
fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *entry,
    })
}

fn network_outside_net(graph: &Graph) -> Vec<Problem> {
    let others = graph.ours().filter(|package| package.name != "ioex-net");
    others
        .flat_map(|package| package.declared.iter().map(move |dep| (package, dep)))
        .filter(|(_, dep)| listed(NETWORK, dep))
        .map(|(package, dep)| {
            let what = format!("depends on {dep}; only ioex-net speaks to the network stack");
            Problem::new(&package.name, what)
        })
        .collect()
}

fn runtime_in_pure_crates(graph: &Graph) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in STILL {
        for dep in graph.closure(name).into_iter().filter(|dep| listed(RUNTIME, dep)) {
            problems.push(Problem::new(*name, format!("is built with {dep}; it does no network I/O")));
        }
    }
    problems
}

/// Names of packages that `Cargo.lock` has and we do not take.
fn banned(lock: &str) -> Vec<Problem> {
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    names
        .filter_map(|name| BANNED.iter().find(|(banned, _)| *banned == name))
        .map(|(name, instead)| {
            let what = format!("{name} is banned, use {instead}; `cargo tree -i {name}` says who wants it");
            Problem::new("Cargo.lock", what)
        })
        .collect()
}

/// Names of the packages in the device build, once that feature set exists.
fn device_tree(graph: &Graph) -> Result<Option<Vec<String>>> {
    if !graph.ours().any(|package| package.name == "ioex" && package.features.iter().any(|f| f == "device")) {
        return Ok(None);
    }
    let shape = ["tree", "--package", "ioex", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let tree = sh::output(&mut sh::cargo(shape.iter().chain(&FEATURES)), QUERY_LIMIT)?;
    Ok(Some(tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()))
}

fn chain_on_devices(tree: &[String]) -> Vec<Problem> {
    let names: BTreeSet<&String> = tree.iter().filter(|name| listed(NOT_ON_DEVICES, name)).collect();
    names
        .into_iter()
        .map(|name| Problem::new("device build", format!("links {name}; a device carries no chain or site")))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, declared: &[&str]) -> Value {
        let dependencies: Vec<Value> = declared.iter().map(|name| json!({ "name": name })).collect();
        let source = if name.starts_with("ioex") { Value::Null } else { json!("registry") };
        json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": source,
                "dependencies": dependencies, "features": {} })
    }

    /// A graph where every declared dependency is also resolved.
    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let packages: Vec<Value> = edges.iter().map(|(name, deps)| package(name, deps)).collect();
        let node = |(name, deps): &(&str, &[&str])| {
            let deps: Vec<Value> =
                deps.iter().map(|dep| json!({ "pkg": dep, "dep_kinds": [{ "kind": null }] })).collect();
            json!({ "id": name, "deps": deps })
        };
        let nodes: Vec<Value> = edges.iter().map(node).collect();
        Graph::parse(&json!({ "packages": packages, "resolve": { "nodes": nodes } })).unwrap()
    }

    #[test]
    fn only_net_uses_the_network_stack() {
        let fine = graph(&[("ioex-net", &["iroh", "n0-future"]), ("iroh", &[]), ("n0-future", &[])]);
        assert!(network_outside_net(&fine).is_empty());
        let broken = graph(&[("ioex", &["iroh-relay"]), ("iroh-relay", &[])]);
        assert_eq!(network_outside_net(&broken).len(), 1);
    }

    #[test]
    fn pure_crates_reach_no_runtime_even_indirectly() {
        let broken = graph(&[("ioex-store", &["redb"]), ("redb", &["tokio"]), ("tokio", &[])]);
        let problems = runtime_in_pure_crates(&broken);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].place, "ioex-store");
    }

    #[test]
    fn banned_dependencies_are_found_in_the_lock_file() {
        assert_eq!(banned("[[package]]\nname = \"openssl-sys\"\nversion = \"0.9\"\n").len(), 1);
        assert!(banned("[[package]]\nname = \"openssl-probe\"\n").is_empty());
    }

    #[test]
    fn devices_carry_no_chain() {
        let tree = ["ioex", "ioex-net", "ioex-chain-pow", "revm"].map(str::to_owned);
        assert_eq!(chain_on_devices(&tree).len(), 2);
    }
}
