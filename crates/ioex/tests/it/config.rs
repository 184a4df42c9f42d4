//! A node's configuration: file, flags over it, defaults under it.

use std::path::PathBuf;

use clap::Parser as _;
use ioex::{
    cli::{Cli, Command},
    config::{ConfigError, NodeConfig},
};
use ioex_base::{NodeKey, NodeKind};

fn default_data() -> PathBuf {
    PathBuf::from("/default")
}

fn flags(line: &str) -> Result<NodeConfig, ConfigError> {
    let cli = Cli::try_parse_from(line.split(' ')).unwrap();
    let Command::Node(args) = cli.command else { panic!("not a node") };
    args.to_config(cli.data.as_deref(), default_data())
}

/// Every key with a value other than its default.
fn full() -> NodeConfig {
    let uid = NodeKey::from_seed([1; 32]).uid();
    NodeConfig {
        data: PathBuf::from("/data"),
        kind: NodeKind::Super,
        name: "n".to_owned(),
        owner: "o".to_owned(),
        bind: Some([127, 0, 0, 2].into()),
        port: 7,
        public_ip: Some([127, 0, 0, 3].into()),
        seeds: vec![format!("{uid}@127.0.0.1:1"), format!("{uid}@[::1]:2")],
        dht: false,
        lan: true,
        lend_bytes: 10_000_000_000,
        authorities: vec![uid],
        revocations: vec![PathBuf::from("/revoked"), PathBuf::from("/more")],
        capability: Some(PathBuf::from("/cap")),
        inspect: ioex::config::Inspection::Clamd("/scan".into()),
        receive_dir: Some(PathBuf::from("/in")),
        auto_accept: true,
        forward_allow: vec!["127.0.0.1:80".parse().unwrap()],
        no_udp: true,
        ota: None,
    }
}

fn text(config: &NodeConfig) -> String {
    toml::to_string(config).unwrap()
}

#[test]
fn a_file_is_read_back_as_it_was_written() {
    let config = full();
    let read = NodeConfig::from_toml(&text(&config), default_data()).unwrap();
    assert_eq!(text(&read), text(&config));
}

#[test]
fn flags_say_all_that_a_file_can() {
    let config = full();
    let (uid, seeds) = (config.authorities[0], config.seeds.join(","));
    let line = format!(
        "ioex node --data /data --kind super --name n --owner o --bind 127.0.0.2 --port 7 \
         --public-ip 127.0.0.3 --seeds {seeds} --dht=false --lan --lend-bytes 10GB --authorities {uid} \
         --revocations /revoked,/more --capability /cap --inspect-clamd /scan --receive-dir /in --auto-accept --forward-allow 127.0.0.1:80 --no-udp"
    );
    assert_eq!(text(&flags(&line).unwrap()), text(&config));
    // A new key needs a flag, and this test.
    let keys = toml::from_str::<toml::Table>(&text(&config)).unwrap().len();
    assert_eq!(keys, 19);
}

#[test]
fn flags_win_over_the_file_and_defaults_fill_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    std::fs::write(&path, "name = 'file'\nowner = 'file'\nlend_bytes = '512MiB'\ndht = false\n").unwrap();
    let config = flags(&format!("ioex node --config {} --name flag", path.display())).unwrap();
    assert_eq!((config.name.as_str(), config.owner.as_str()), ("flag", "file"));
    assert_eq!((config.lend_bytes, config.dht, config.port), (512 << 20, false, 0));
    assert_eq!(config.data, default_data());
    let config = flags(&format!("ioex node --config {} --data /other", path.display())).unwrap();
    assert_eq!(config.data, PathBuf::from("/other"));
}

#[test]
fn errors_name_the_key() {
    for (file, key) in [
        ("colour = 'red'", "colour"),
        ("port = 70000", "port"),
        ("kind = 'toaster'", "kind"),
        ("lend_bytes = '10 potatoes'", "lend_bytes"),
        ("lend_bytes = -1", "lend_bytes"),
        ("authorities = ['abc']", "authorities"),
    ] {
        let error = NodeConfig::from_toml(file, default_data()).unwrap_err().to_string();
        assert!(error.contains(key), "{file}: {error}");
    }
    for (line, key) in [
        ("ioex node --seeds 127.0.0.1:1", "seeds"),
        ("ioex node --kind phone --lend 1GB", "lend_bytes"),
        ("ioex node --capability f", "capability"),
    ] {
        let error = flags(line).unwrap_err().to_string();
        assert!(error.contains(&format!("'{key}'")), "{line}: {error}");
    }
}

#[test]
fn a_bad_file_is_a_usage_error_that_names_file_and_key() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("node.toml"), "colour = 'red'").unwrap();
    let output = crate::ioex(home.path(), &["node", "--config", "node.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let text = crate::stderr(&output);
    assert!(text.contains("node.toml") && text.contains("colour"), "{text}");
    let output = crate::ioex(home.path(), &["node", "--config", "absent.toml"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_device_that_makes_no_sense_is_refused_by_name() {
    let section = |install: &str, policy: &str| {
        let text = format!("[ota]\nbundle = '/b'\ninstalled = '1.0'\n{install}\n[ota.policy]\n{policy}\n");
        match NodeConfig::from_toml(&text, default_data()) {
            Ok(config) => config.check().err().map(|e| e.to_string()).unwrap_or_default(),
            Err(e) => e.to_string(),
        }
    };
    let swap = "[ota.install.swap]\npath = '/a'";
    assert_eq!(section(swap, "min_battery_percent = 100"), "");
    let refused = [
        (section(swap, "min_battery_percent = 140"), "min_battery_percent is 140"),
        (section(swap, "install_hours = { from_minute = 1500, until_minute = 3 }"), "from_minute is 1500"),
        (section(&format!("{swap}\n[ota.install.hook]\ncommand = ['/c']"), ""), "one installer"),
    ];
    for (got, wanted) in refused {
        assert!(got.contains(wanted), "{got}");
    }
}
