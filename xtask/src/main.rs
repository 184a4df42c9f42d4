//! Project tasks, run as `cargo xtask TASK`. One file per task; what they share is in [`sh`]
//! (processes), [`install`] (system packages), [`netns`] (network namespaces) and [`node`]
//! (running `ioex`).

mod arm;
mod bench;
mod ci;
mod device;
mod fuzz;
mod install;
mod lab;
mod licences;
mod netns;
mod node;
mod probe;
mod sdk;
mod sh;
mod sim;
mod table;
mod test;
mod tidy;
mod transfer;
mod up;

use std::{ffi::OsString, net::SocketAddrV4, process::ExitCode};

use clap::{Parser, Subcommand};

/// Project tasks of ioeX.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build ioex and run `ioex up`; what follows is handed on to it.
    #[command(disable_help_flag = true)]
    Up {
        /// Arguments of `ioex up`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Install what the tests need and run them all.
    Test,
    /// Check formatting, lints, file sizes, layering, dependencies and wording.
    Tidy(tidy::Options),
    /// Check the licences of all dependencies against deny.toml.
    Licences,
    /// Everything that continuous integration runs, with a time per stage.
    Ci,
    /// Hosts behind real NATs in network namespaces (root).
    Lab(lab::Options),
    /// Benchmarks with bounds (root).
    Bench(bench::Options),
    /// Simulations of the rules in large networks.
    Sim(sim::Options),
    /// Build the small device program and print its size.
    Device,
    /// Build the device program for ARM and run it under emulation (root).
    Arm(arm::Options),
    /// The C library for makers' firmware.
    Sdk(sdk::Options),
    /// Run the fuzz targets.
    Fuzz(fuzz::Options),
    /// Answers UDP probes from several sockets (used by the lab).
    #[command(hide = true)]
    ProbeServer {
        /// `IP:PORT` of each socket; the second shares the first one's IP.
        #[arg(num_args = 3)]
        sockets: Vec<SocketAddrV4>,
    },
    /// Finds out what the NAT on the way does (used by the lab).
    #[command(hide = true)]
    Probe {
        /// The server's sockets, as given to `probe-server`.
        #[arg(num_args = 3)]
        sockets: Vec<SocketAddrV4>,
    },
    /// Removes the lab when the process at the other end of its standard input is gone.
    #[command(hide = true)]
    Janitor,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Up { args } => up::run(args),
        Task::Test => test::run(),
        Task::Tidy(options) => tidy::run(&options),
        Task::Licences => licences::check(),
        Task::Ci => ci::run(),
        Task::Lab(options) => lab::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Sim(options) => sim::run(&options),
        Task::Device => device::run(),
        Task::Arm(options) => arm::run(&options),
        Task::Sdk(options) => sdk::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::ProbeServer { sockets } => probe::serve(&sockets),
        Task::Probe { sockets } => probe::report(&sockets),
        Task::Janitor => netns::janitor(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
