//! Plain HTTP: nginx at the origin, curl at the devices. What a maker's file server does today.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Program, stage::Stage, workers::Workers};
use crate::sh::{self, Process};

/// Its name in the table.
pub(super) const NAME: &str = "http";

const PORT: u16 = 8080;
/// The server listens within this.
const START: Duration = Duration::from_secs(20);
/// Asking whether it does.
const PROBE: Duration = Duration::from_secs(5);

/// A server and its clients.
#[derive(Default)]
pub(super) struct Http {
    server: Option<Process>,
    workers: Workers,
    copies: Vec<PathBuf>,
}

impl Program for Http {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&mut self, stage: &mut Stage) -> Result<()> {
        let folder = stage.world.dir().join("nginx");
        fs::create_dir_all(&folder)?;
        let root = stage.package.parent().context("a package without a folder")?;
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(&folder.display().to_string(), &root.display().to_string()))?;
        let mut command = stage.origin.namespace.command(sh::find("nginx").context("no nginx")?);
        command.arg("-c").arg(&config).arg("-e").arg(folder.join("early.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(folder.join("words"))?);
        self.server = Some(Process::new(command.spawn().context("cannot start nginx")?));
        let name =
            stage.package.file_name().and_then(|name| name.to_str()).context("a package without a name")?;
        let url = format!("http://{}:{PORT}/{name}", stage.origin.address);
        let listens = || {
            let mut head = stage.origin.namespace.command("curl");
            head.args(["--silent", "--fail", "--head", &url]);
            Ok(sh::output(&mut head, PROBE).ok())
        };
        sh::wait_for("nginx to listen", START, listens)?;
        let mut commands = Vec::new();
        for device in &stage.devices {
            let copy = stage.folder(device)?.join("package.bin");
            let mut command = device.namespace.command("sh");
            command.args(["-c", SCRIPT, "sh", &url]).arg(&copy);
            commands.push(command);
            self.copies.push(copy);
        }
        self.workers = Workers::start(commands, &folder)?;
        Ok(())
    }

    fn tell(&mut self) -> Result<()> {
        self.workers.tell()
    }

    fn next_done(&mut self, limit: Duration) -> Result<(usize, Instant)> {
        self.workers.next_done(limit)
    }

    fn processes(&self) -> Vec<u32> {
        self.workers.processes().chain(self.server.as_ref().map(Process::pid)).collect()
    }

    fn finish(&mut self) -> Result<()> {
        self.workers.finish()
    }

    fn copy(&self, device: usize) -> Result<PathBuf> {
        self.copies.get(device).cloned().context("no such device")
    }
}

/// The shell stays, so that curl's CPU time is found with its own.
const SCRIPT: &str = "echo READY; read word; curl --silent --show-error --fail --output \"$2\" \"$1\" || exit 1; \
                      echo DONE; read word; exit 0";

/// One process, no log, the kernel sends the file.
fn configuration(folder: &str, root: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {folder}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 512; }}\nhttp {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n\
         {temporary}  server {{ listen {PORT}; root {root}; }}\n}}\n"
    )
}
