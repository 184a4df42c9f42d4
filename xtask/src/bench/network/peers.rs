//! The programs that we are measured against, in the same namespaces and the same run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::TRANSFER;
use crate::{
    netns::Namespace,
    sh::{self, Process},
};

/// A server listens within this.
const READY: Duration = Duration::from_secs(60);

/// Bytes per second of one TCP stream, as `iperf3` sees it.
pub(super) fn iperf3(from: &Namespace, to: &Namespace, address: &str, bytes: u64) -> Result<f64> {
    let iperf3 = sh::find("iperf3").context("no iperf3")?;
    let mut server = to.command(&iperf3);
    server.args(["-s", "-1"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Process::new(server.spawn()?);
    let bytes = bytes.to_string();
    // The first tries may come before the server listens; such a run reports an error instead of a
    // rate, sometimes with success.
    sh::wait_for("iperf3 to listen", READY, || {
        let mut client = from.command(&iperf3);
        client.args(["-c", address, "-n", &bytes, "--json"]);
        let report = sh::output(&mut client, TRANSFER).ok();
        let report: Option<Value> = report.and_then(|text| serde_json::from_str(&text).ok());
        Ok(report.and_then(|r| r["end"]["sum_received"]["bits_per_second"].as_f64()).map(|bits| bits / 8.0))
    })
}

/// Where `sendme` is; built from crates.io when it is not installed.
pub(super) fn sendme() -> Result<PathBuf> {
    if let Some(path) = sh::find("sendme") {
        return Ok(path);
    }
    let root = sh::target_dir().join("peers");
    let path = root.join("bin/sendme");
    if !path.is_file() {
        eprintln!("building sendme, to measure against it; this takes some minutes");
        let mut install = sh::cargo(["install", "sendme", "--locked", "--no-default-features", "--root"]);
        sh::run(install.arg(&root))?;
    }
    Ok(path)
}

/// Bytes per second of `sendme`, its import of the file left out.
pub(super) fn run_sendme(
    sendme: &Path,
    from: (&Namespace, &str),
    to: &Namespace,
    file: &Path,
    dir: &Path,
) -> Result<f64> {
    let (send, receive) = (dir.join("send"), dir.join("receive"));
    for folder in [&send, &receive] {
        fs::create_dir_all(folder)?;
    }
    let log = dir.join("log");
    let mut origin = from.0.command(sendme);
    // Without relays there is nobody outside to ask; the ticket has the address.
    origin.args(["send", "--relay", "disabled", "--no-progress", "--magic-ipv4-addr"]);
    origin.arg(format!("{}:11111", from.1)).arg(file).current_dir(&send);
    let output = fs::File::create(&log)?;
    origin.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut origin = Process::new(origin.spawn()?);
    let ticket = sh::wait_for("sendme's ticket", READY, || Ok(ticket(&fs::read_to_string(&log)?)))?;
    let start = Instant::now();
    let mut receiver = to.command(sendme);
    receiver.args(["receive", "--relay", "disabled", "--no-progress", &ticket]).current_dir(&receive);
    sh::output(&mut receiver, TRANSFER)?;
    let seconds = start.elapsed().as_secs_f64();
    origin.stop(Duration::from_secs(5))?;
    let name = file.file_name().context("the test file has no name")?;
    let size = fs::metadata(file)?.len();
    ensure!(fs::metadata(receive.join(name))?.len() == size, "sendme did not bring the whole file");
    fs::remove_dir_all(dir)?;
    Ok(size as f64 / seconds)
}

/// The word in the output that is a ticket.
fn ticket(log: &str) -> Option<String> {
    let long = |word: &&str| word.starts_with("blob") && word.len() > 40;
    // The last line is complete only once its end is there.
    let complete = log.rsplit_once('\n')?.0;
    complete.split_whitespace().find(long).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_found_once_its_line_is_complete() {
        let word = format!("blob{}", "a".repeat(60));
        assert_eq!(ticket(&format!("imported\nsendme receive {word}\n")), Some(word.clone()));
        assert_eq!(ticket(&format!("imported\nsendme receive {word}")), None);
        assert_eq!(ticket("blob of text\n"), None);
    }
}
