//! Programs that say `READY`, wait for a line, say `DONE` when they have the package, and go on
//! until their standard input ends.
//!
//! So that no start of an interpreter is on the clock, and those that are done go on serving.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::sh::{self, Process};

/// All programs of a run have started, on a busy machine.
const READY: Duration = Duration::from_secs(60);
/// A program ends by itself within this.
const END: Duration = Duration::from_secs(20);
/// Bytes of a program's complaints that an error repeats.
const WORDS_MAX_BYTES: usize = 800;

/// What a worker said.
enum Said {
    Ready,
    Done,
    Ended,
}

/// The programs of all devices.
#[derive(Default)]
pub(super) struct Workers {
    workers: Vec<Worker>,
    said: Option<Receiver<(usize, Said, Instant)>>,
}

struct Worker {
    process: Process,
    log: PathBuf,
}

impl Workers {
    /// Starts one for each command, in order, and waits until all are ready. What they complain of
    /// goes to files in `logs`.
    pub(super) fn start(commands: Vec<Command>, logs: &Path) -> Result<Self> {
        let (sender, said) = channel();
        let mut all = Self { workers: Vec::new(), said: Some(said) };
        for (number, command) in commands.into_iter().enumerate() {
            let log = logs.join(format!("worker{number}.log"));
            all.workers.push(Worker::start(number, command, log, sender.clone())?);
        }
        let mut ready = 0;
        let start = Instant::now();
        while ready < all.workers.len() {
            match all.next(READY.saturating_sub(start.elapsed()))? {
                (_, Said::Ready, _) => ready += 1,
                (number, ..) => bail!("device {number} was to be ready:\n{}", all.words(number)),
            }
        }
        Ok(all)
    }

    /// Gives all of them their line.
    pub(super) fn tell(&mut self) -> Result<()> {
        for worker in &mut self.workers {
            let stdin = worker.process.get_mut().stdin.as_mut().context("no pipe to a worker")?;
            stdin.write_all(b"GO\n")?;
        }
        Ok(())
    }

    /// The next one that is done.
    pub(super) fn next_done(&mut self, limit: Duration) -> Result<(usize, Instant)> {
        match self.next(limit)? {
            (number, Said::Done, when) => Ok((number, when)),
            (number, ..) => bail!("device {number} ended without the package:\n{}", self.words(number)),
        }
    }

    fn next(&self, limit: Duration) -> Result<(usize, Said, Instant)> {
        let said = self.said.as_ref().context("no workers were started")?;
        said.recv_timeout(limit).with_context(|| format!("nothing within {} s", limit.as_secs()))
    }

    /// Their process ids.
    pub(super) fn processes(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().map(|worker| worker.process.pid())
    }

    /// Ends their standard input and waits for their end.
    pub(super) fn finish(&mut self) -> Result<()> {
        for worker in &mut self.workers {
            drop(worker.process.get_mut().stdin.take());
        }
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let ended = worker.process.wait(END)?;
            ensure!(
                ended.is_some_and(|status| status.success()),
                "device {number} did not end in order: {ended:?}"
            );
        }
        Ok(())
    }

    fn words(&self, number: usize) -> String {
        let log = self.workers.get(number).and_then(|worker| fs::read(&worker.log).ok()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(WORDS_MAX_BYTES)..]).into_owned()
    }
}

impl Worker {
    fn start(
        number: usize,
        mut command: Command,
        log: PathBuf,
        said: Sender<(usize, Said, Instant)>,
    ) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", sh::show(&command)))?;
        let mut process = Process::new(child);
        let stdout = process.get_mut().stdout.take().context("no pipe from a worker")?;
        // Ends with the pipe, thus with the process. Nobody may listen any more.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let now = Instant::now();
                let _ = match line.as_str() {
                    "READY" => said.send((number, Said::Ready, now)),
                    "DONE" => said.send((number, Said::Done, now)),
                    _ => Ok(()),
                };
            }
            let _ = said.send((number, Said::Ended, Instant::now()));
        });
        Ok(Self { process, log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn logs(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-workers-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn workers_wait_for_the_word_and_for_the_end() {
        let folder = logs("word");
        let script = "echo READY; read word; echo DONE; read word; exit 0";
        let mut workers = Workers::start(vec![shell(script), shell(script)], &folder).unwrap();
        workers.tell().unwrap();
        let mut done = [workers.next_done(READY).unwrap().0, workers.next_done(READY).unwrap().0];
        done.sort_unstable();
        assert_eq!(done, [0, 1]);
        workers.finish().unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_worker_that_fails_is_named_with_its_words() {
        let folder = logs("fails");
        let script = "echo READY; read word; echo oh dear >&2; exit 3";
        let mut workers = Workers::start(vec![shell(script)], &folder).unwrap();
        workers.tell().unwrap();
        let error = format!("{:#}", workers.next_done(READY).unwrap_err());
        assert!(error.contains("device 0") && error.contains("oh dear"), "{error}");
        let early = Workers::start(vec![shell("exit 0")], &folder).err().unwrap().to_string();
        assert!(early.contains("was to be ready"), "{early}");
        fs::remove_dir_all(folder).unwrap();
    }
}
