//! The program from outside: its command line, its configuration, and its client commands against
//! a local API with a handler of our own behind it.

mod backup;
mod backup_edges;
mod clients;
mod config;
mod device;
mod device_full;
mod disk_full;
mod endings;
mod harm;
mod kill_device;
mod kill_super;
mod net;
mod ota;
mod ota_attacks;
mod ota_hook;
mod ota_maker;
mod ota_matchers;
mod ota_owner;
mod ota_policy;
mod ota_vouchers;
mod partner;
mod points;
mod prune;
mod stall;
mod wanted;

use std::{
    path::Path,
    process::{Command, Output},
};

use clap::Parser as _;
use ioex::{cli::Cli, exit};
use serde_json::Value;

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ioex"))
}

/// Runs `ioex` with a home folder of its own.
fn ioex(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ioex"))
        .args(args)
        .env("HOME", home)
        .env_remove("IOEX_DATA")
        .current_dir(home)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The error object that `--json` leaves, and the exit code.
fn json_error(output: &Output) -> (Option<i32>, String, String) {
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |key: &str| value["error"][key].as_str().unwrap().to_owned();
    (output.status.code(), text("code"), text("message"))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::describe().debug_assert();
}

#[test]
fn the_command_lines_of_the_manual_are_read() {
    let uid = ioex_base::NodeKey::from_seed([1; 32]).uid().to_string();
    let lines = [
        "ioex node --kind super --lend 10GB --seed U@1.2.3.4:5 --dht=false --no-udp --data d",
        "ioex up file --once --json --peers 5 --bootstraps 2 --data d",
        "ioex id --rotate-tag",
        "ioex status --json",
        "ioex netcheck",
        "ioex ping U -c 3 --interval 10",
        "ioex friend add ADDRESS --greeting hi",
        "ioex friend accept U",
        "ioex friend refuse U",
        "ioex friend remove label",
        "ioex friend list",
        "ioex friend label U home",
        "ioex pair show --minutes 5",
        "ioex pair use U --code 123",
        "ioex message send U hello --wait 3",
        "ioex message list",
        "ioex send a b --to U --to V --no-wait",
        "ioex receive list",
        "ioex receive accept 1 --dir d",
        "ioex receive pause 1",
        "ioex receive resume 1",
        "ioex receive cancel 1",
        "ioex receive watch 1",
        "ioex forward open U 127.0.0.1:0 127.0.0.1:80 --udp",
        "ioex forward list",
        "ioex forward close 1",
        "ioex forward allow 127.0.0.1:80 [::1]:22",
        "ioex backup create a b --policy rs=20/32/60/80 --exclude *.o -x --days 9 --tag t --priority urgent",
        "ioex backup create - --name dump.sql --no-wait",
        "ioex backup list",
        "ioex backup list --tag t --tag u --source a --source b --host h",
        "ioex backup restore out --source a --tag t --path a/b",
        "ioex backup forget --keep-last 3 --source a",
        "ioex backup diff 00ff latest --tag t",
        "ioex backup restore out --point 2026-11-24 --path a --path b --rate-limit 1MB",
        "ioex backup restore - --path a",
        "ioex backup ls --point 00ff a",
        "ioex backup diff 00ff",
        "ioex backup verify --read-percent 5",
        "ioex backup mount d",
        "ioex backup renew --all --days 30",
        "ioex backup renew 00ff",
        "ioex backup forget --keep-daily 7 --keep-weekly 4 --dry-run",
        "ioex backup prune --dry-run --max-unused 5",
        "ioex backup repair",
        "ioex backup jobs",
        "ioex backup follow 1",
        "ioex backup cancel 1",
        "ioex backup export-key",
        "ioex backup import-key --replace",
        "ioex backup schedule add nightly --every 1d --keep 30 a",
        "ioex backup schedule list",
        "ioex backup schedule remove nightly",
        "ioex backup put f --manifest m --replicas 3 --for U --for V",
        "ioex backup get m out --rate-limit 1MB",
        "ioex device show --json",
        "ioex device set --space 10GB --dir d --move --upload 2MB/s --hours 22:00-06:00",
        "ioex device set --metered pause --battery auto --upload unlimited --hours always",
        "ioex device shards",
        "ioex device delete U",
        "ioex device delete --expired",
        "ioex device leave",
        "ioex device on",
        "ioex device off",
        "ioex ota channel create acme box --channel d --root-keys 3 --threshold 2",
        "ioex ota channel show --channel d",
        "ioex ota channel bundle f --channel d --matcher U",
        "ioex ota channel refresh --channel d",
        "ioex ota channel carry --channel d",
        "ioex ota channel rotate timestamp --channel d --draft f --root-key k",
        "ioex ota channel rotate targets snapshot timestamp --channel d --root-key k",
        "ioex ota channel rotate root --replace U --channel d --root-key k --root-key l",
        "ioex ota channel sign f k l",
        "ioex ota channel adopt f --channel d",
        "ioex ota roster add U --channel d",
        "ioex ota roster import f --channel d",
        "ioex ota roster remove U --channel d",
        "ioex ota roster list --channel d",
        "ioex ota publish rootfs=f boot=g --version 1.2 --channel d --percent 5 --step 24:50 --follows 1.0",
        "ioex ota rollout 1.2 --channel d --percent 50 --step 24:100",
        "ioex ota rollout 1.2 --channel d --pause",
        "ioex ota rollout 1.2 --channel d --resume --stop-percent 5 --stop-after 9",
        "ioex ota withdraw 1.2 --channel d",
        "ioex ota order 1.2 --channel d --origin U --shards 9",
        "ioex ota order 1.2 --channel d --origin U",
        "ioex ota order 1.2 --channel d --end",
        "ioex ota status",
        "ioex ota status --channel d",
        "ioex ota state",
        "ioex ota follow",
        "ioex ota check --wait",
        "ioex ota install 1.2 --now --wait",
        "ioex ota decline 1.2",
        "ioex ota confirm",
        "ioex ota roll-back",
        "ioex ota forgive",
        "ioex ota boot --state f --running g --installed 1.0",
        "ioex lookup U",
        "ioex events --json",
        "ioex phone background",
        "ioex phone foreground",
        "ioex stop",
        "ioex authority create f",
        "ioex authority revoke --key k --id 00112233445566778899aabbccddeeff --out o",
        "ioex authority grant --key k --to U --max-bytes-per-device 1GiB --days 9 --out o",
        "ioex completions bash",
        "ioex man d",
        "ioex exit-codes",
    ];
    for line in lines {
        let line = line.replace('U', &uid);
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let home = tempfile::tempdir().unwrap();
    let lines: [&[&str]; 16] = [
        &[],
        &["fly"],
        &["ping"],
        &["ping", "x", "--count", "0"],
        &["send", "file"],
        &["node", "--lend", "10 potatoes"],
        &["up", "--peers", "1"],
        &["device"],
        &["device", "set"],
        &["device", "set", "--move"],
        &["device", "set", "--upload", "0"],
        &["device", "set", "--hours", "7-9"],
        &["device", "set", "--metered", "maybe"],
        &["device", "delete"],
        &["device", "delete", "--expired", "aa"],
        &["authority", "revoke", "--key", "k", "--id", "12", "--out", "o"],
    ];
    for args in lines {
        assert_eq!(ioex(home.path(), args).status.code(), Some(2), "{args:?}");
    }
    let (code, kind, message) = json_error(&ioex(home.path(), &["ping", "--json"]));
    assert_eq!((code, kind.as_str()), (Some(2), "usage"));
    assert!(message.contains("UID"), "{message}");
}

#[test]
fn without_a_node_the_command_says_how_to_start_one() {
    let home = tempfile::tempdir().unwrap();
    let output = ioex(home.path(), &["status"]);
    assert_eq!(output.status.code(), Some(3));
    let default = home.path().join(".local/share/ioex").display().to_string();
    assert!(stderr(&output).contains(&format!("ioex node --data {default}")), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let (code, kind, _) = json_error(&ioex(home.path(), &["status", "--json", "--data", "here"]));
    assert_eq!((code, kind.as_str()), (Some(3), "no-node"));
}

#[test]
fn the_environment_names_the_data_folder() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ioex"))
        .arg("id")
        .env("IOEX_DATA", "/nowhere/at/all")
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert!(stderr(&output).contains("/nowhere/at/all"));
}

#[test]
fn exit_codes_are_distinct_and_documented() {
    let all = exit::all();
    let manual = include_str!("../../../../docs/cli.md");
    for (i, (code, name, _)) in all.iter().enumerate() {
        assert!(all[i + 1..].iter().all(|(c, n, _)| c != code && n != name), "{code} {name}");
        assert!(manual.contains(&format!("| {code} | `{name}` |")), "docs/cli.md lacks {code} {name}");
    }
    let home = tempfile::tempdir().unwrap();
    let help = stdout(&ioex(home.path(), &["help", "exit-codes"]));
    assert!(help.contains("18  unreachable"), "{help}");
}

#[test]
fn every_command_is_in_the_manual() {
    let manual = include_str!("../../../../docs/cli.md");
    for command in Cli::describe().get_subcommands() {
        let parts: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let names = if parts.is_empty() { vec![String::new()] } else { parts };
        for name in names {
            let line = format!("ioex {} {name}", command.get_name());
            assert!(manual.contains(line.trim_end()), "docs/cli.md lacks `{line}`");
        }
    }
}

#[test]
fn manual_pages_and_completions_are_written() {
    let home = tempfile::tempdir().unwrap();
    assert!(ioex(home.path(), &["man", "pages"]).status.success());
    for page in ["ioex.1", "ioex-backup-put.1", "ioex-node.1"] {
        assert!(home.path().join("pages").join(page).is_file(), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = ioex(home.path(), &["completions", shell]);
        assert!(stdout(&output).contains("netcheck"), "{shell}");
    }
}

#[test]
fn an_authority_grants_and_its_files_are_never_written_over() {
    let home = tempfile::tempdir().unwrap();
    let created = ioex(home.path(), &["authority", "create", "key", "--json"]);
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    let to = ioex_base::NodeKey::from_seed([1; 32]).uid().to_string();
    let args =
        ["authority", "grant", "--key", "key", "--to", &to, "--max-bytes-per-device", "1GiB", "--days", "3"];
    let args = [&args[..], &["--out", "grant", "--json"]].concat();
    let granted = ioex(home.path(), &args);
    assert!(granted.status.success(), "{}", stdout(&granted));
    let granted: Value = serde_json::from_slice(&granted.stdout).unwrap();
    assert_eq!((&granted["issuer"], &granted["subject"]), (&created["uid"], &Value::from(to.as_str())));
    assert_eq!(json_error(&ioex(home.path(), &args)).0, Some(1));
    assert_eq!(ioex(home.path(), &["authority", "create", "key"]).status.code(), Some(1));
}
