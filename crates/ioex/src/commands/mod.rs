//! What each subcommand does, one file each.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ioex_api::{Client, ClientError};
use tokio::runtime::{Builder, Runtime};

use crate::{
    cli::{Cli, Command, default_data},
    exit::Usage,
    out::Out,
    progress::Show,
};

mod authority;
mod backup;
mod backup_partner;
mod backup_pipe;
mod backup_words;
#[cfg(feature = "full")]
mod completions;
mod device;
mod events;
mod exit_codes;
mod forward;
mod friend;
mod id;
#[cfg(feature = "full")]
mod lab_dht;
#[cfg(feature = "full")]
mod lab_pack;
mod lookup;
#[cfg(feature = "full")]
mod man;
mod message;
mod netcheck;
mod node;
mod ota;
mod pair;
mod phone;
mod ping;
mod receive;
mod send;
mod status;
mod stop;
mod who;

/// What every command knows: the global flags.
#[derive(Debug)]
pub struct Context {
    /// The value of `--data`, when given.
    pub data: Option<PathBuf>,
    /// Where results go.
    pub out: Out,
}

impl Context {
    /// The node's data folder: the flag, else the environment, else the default.
    fn data(&self) -> Result<PathBuf, Usage> {
        self.data.clone().map_or_else(default_data, Ok)
    }

    /// The running node.
    async fn client(&self) -> anyhow::Result<Client> {
        // Absolute, so that the sentence about a missing node can be copied.
        let data = absolute(&self.data()?)?;
        Ok(Client::connect(&data).await?)
    }

    /// Progress for people only.
    fn show(&self) -> Show {
        if self.out.json() { Show::Nothing } else { Show::detect() }
    }
}

/// Runs the command.
///
/// # Errors
/// What the command says; [`crate::exit::Failure::of`] gives it an exit code.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let context = Context { data: cli.data, out: Out::new(cli.json) };
    let c = &context;
    match cli.command {
        Command::Node(args) => node::run(c, &args),
        #[cfg(feature = "full")]
        Command::Up(args) => runtime()?.block_on(crate::up::run(&args, c.data.as_deref(), c.out)),
        Command::Id(args) => runtime()?.block_on(id::run(c, &args)),
        Command::Status => runtime()?.block_on(status::run(c)),
        Command::Netcheck => runtime()?.block_on(netcheck::run(c)),
        Command::Ping(args) => runtime()?.block_on(ping::run(c, &args)),
        Command::Friend(command) => runtime()?.block_on(friend::run(c, command)),
        Command::Pair(command) => runtime()?.block_on(pair::run(c, command)),
        Command::Message(command) => runtime()?.block_on(message::run(c, command)),
        Command::Send(args) => runtime()?.block_on(send::run(c, &args)),
        Command::Receive(command) => runtime()?.block_on(receive::run(c, command)),
        Command::Forward(command) => runtime()?.block_on(forward::run(c, command)),
        Command::Backup(command) => runtime()?.block_on(backup::run(c, command)),
        Command::Device(command) => runtime()?.block_on(device::run(c, command)),
        Command::Ota(command) => runtime()?.block_on(ota::run(c, *command)),
        Command::Lookup { address } => runtime()?.block_on(lookup::run(c, address)),
        Command::Events => runtime()?.block_on(events::run(c)),
        Command::Phone { state } => runtime()?.block_on(phone::run(c, state)),
        Command::Stop => runtime()?.block_on(stop::run(c)),
        Command::Authority(command) => authority::run(c, command),
        #[cfg(feature = "full")]
        Command::Completions { shell } => completions::run(c, shell),
        #[cfg(feature = "full")]
        Command::Man { dir } => man::run(c, &dir),
        Command::ExitCodes => exit_codes::run(c),
        #[cfg(feature = "full")]
        Command::LabPack { path } => lab_pack::run(c, path),
        #[cfg(feature = "full")]
        Command::LabDht { nodes, lookups } => runtime()?.block_on(lab_dht::run(c, nodes, lookups)),
    }
}

/// One thread: a client waits most of the time, and `up` must start its children from the thread
/// that lives as long as the program, because they end with that thread.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// `path` as the node must see it, whose working folder is another one.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    textual(path)?;
    std::path::absolute(path).with_context(|| format!("no usable path: '{}'", path.display()))
}

/// What is asked of a node is text, so a path that is none cannot be named.
fn textual(path: &Path) -> Result<(), Usage> {
    if path.to_str().is_some() {
        return Ok(());
    }
    let text = "is no text (UTF-8), and cannot be named to the node: name a folder above it, with which it is \
                backed up and restored";
    Err(Usage(format!("'{}' {text}", path.display())))
}

/// The node answered a request with updates of another kind.
fn unexpected<T: std::fmt::Debug>(update: &T) -> anyhow::Error {
    ClientError::Protocol(format!("unexpected update {update:?}")).into()
}
