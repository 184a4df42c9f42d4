//! A device's own commands.

use std::io::Write as _;

use ioex_api::{OtaReason, OtaRequest, OtaStage, OtaState, Request, Update};
use ioex_ota::install::Slot;
use serde::Serialize;

use crate::{
    cli::{BootArgs, OtaCommand, Shown},
    commands::Context,
    exit::Incomplete,
    node::ota::boot as open_state,
    progress::count_bar,
    render, size,
};

pub(super) async fn run(context: &Context, command: OtaCommand) -> anyhow::Result<()> {
    let request = match command {
        OtaCommand::Follow => return follow(context, None).await,
        OtaCommand::Check { wait } => {
            let state = ask(context, OtaRequest::Check).await?;
            if !wait {
                return Ok(context.out.result(&state, human)?);
            }
            return follow(context, Some(Until::Looked)).await;
        }
        OtaCommand::Install(args) => {
            let version = args.shown.version.to_string();
            let state = ask(context, answer(&args.shown, true, args.now)).await?;
            if !args.wait {
                return Ok(context.out.result(&state, human)?);
            }
            return follow(context, Some(Until::Runs(version))).await;
        }
        OtaCommand::Decline(shown) => answer(&shown, false, false),
        OtaCommand::Confirm => OtaRequest::Confirm,
        OtaCommand::RollBack => OtaRequest::RollBack,
        OtaCommand::Forgive => OtaRequest::Forgive,
        _ => OtaRequest::State,
    };
    let state = ask(context, request).await?;
    Ok(context.out.result(&state, human)?)
}

fn answer(shown: &Shown, yes: bool, now: bool) -> OtaRequest {
    OtaRequest::Consent { version: shown.version.to_string(), manifest: shown.manifest, yes, now }
}

async fn ask(context: &Context, request: OtaRequest) -> anyhow::Result<OtaState> {
    Ok(context.client().await?.call(Request::Ota(Box::new(request))).await?)
}

/// How long to follow.
enum Until {
    /// The channel was looked at.
    Looked,
    /// This version runs and was confirmed, or failed, or does not go on by itself.
    Runs(String),
}

async fn follow(context: &Context, until: Option<Until>) -> anyhow::Result<()> {
    let mut updates = context.client().await?.stream(Request::Ota(Box::new(OtaRequest::Follow))).await?;
    let bar = count_bar(context.show(), "update", 0);
    let mut last = String::new();
    while let Some(update) = updates.next().await? {
        let Update::Ota(state) = update else { return Err(super::super::unexpected(&update)) };
        match &state.progress {
            Some(progress) => {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
                bar.set_message(state.stage.name());
            }
            None => bar.reset(),
        }
        let over = match &until {
            None => None,
            Some(Until::Looked) => state.last_check.map(|_| state.problem.clone()),
            Some(Until::Runs(version)) => match state.stage {
                OtaStage::Idle if state.running == *version => Some(None),
                OtaStage::Idle => Some(Some(match (&state.problem, &state.offered) {
                    (Some(why), _) => why.clone(),
                    (None, Some(_)) => "it did not stay".to_owned(),
                    (None, None) => format!("version {version} is not offered any more"),
                })),
                _ if state.offered.as_ref().is_some_and(|offered| offered != version) => {
                    state.offered.as_ref().map(|offered| Some(format!("version {offered} is offered now")))
                }
                _ if state.stuck => Some(waits(&state).or_else(|| state.problem.clone())),
                _ => None,
            },
        };
        let line = line(&state);
        if context.out.json() {
            context.out.update(Update::Ota(state.clone()), |_| None)?;
        } else if line != last {
            bar.suspend(|| writeln!(std::io::stdout(), "{line}"))?;
            last = line;
        }
        match over {
            None => {}
            Some(problem) => {
                bar.finish_and_clear();
                context.out.done(&*state, human)?;
                return match problem {
                    Some(why) => Err(Incomplete(why).into()),
                    None => Ok(()),
                };
            }
        }
    }
    Ok(())
}

/// What it waits for, with the command that does something about it.
fn waits(state: &OtaState) -> Option<String> {
    let hint = match state.reason {
        Some(OtaReason::FailedBefore) => ": `ioex ota forgive`",
        Some(OtaReason::Network) => ": `ioex status` shows its bootstraps",
        _ => "",
    };
    state.holding.as_ref().map(|why| format!("{why}{hint}"))
}

/// What changes now and then.
fn line(state: &OtaState) -> String {
    let what = state.offered.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    let why =
        waits(state).as_ref().or(state.problem.as_ref()).map(|why| format!(": {why}")).unwrap_or_default();
    render::printable(&format!("{}{what}{why}", state.stage.name()))
}

fn human(state: &OtaState) -> String {
    let [origin, lan, wan, relayed] = state.by_source.map(size::human);
    let progress = state.progress.as_ref().map(|progress| {
        format!("{} of {}", size::human(progress.done_bytes), size::human(progress.total_bytes))
    });
    render::fields([
        ("device", format!("{} {}, revision {}", state.brand, state.model, state.hardware)),
        ("channel", state.channel.to_string()),
        ("running", state.running.clone()),
        ("update", state.stage.name().to_owned()),
        ("offered", state.offered.clone().unwrap_or_default()),
        ("size", state.bytes.map(size::human).unwrap_or_default()),
        ("progress", progress.unwrap_or_default()),
        ("manifest", state.manifest.map(|manifest| manifest.to_string()).unwrap_or_default()),
        (
            "agreed",
            match &state.offered {
                None => String::new(),
                Some(_) if state.consent => "yes".to_owned(),
                Some(version) => format!("no: ioex ota install {version}"),
            },
        ),
        ("waits", waits(state).unwrap_or_default()),
        ("problem", state.problem.clone().unwrap_or_default()),
        ("looked", render::ago(state.last_check, render::now())),
        (
            "came",
            format!(
                "{origin} from the maker, {lan} from the local network, {wan} from other devices ({relayed} over relays)"
            ),
        ),
        ("this month", size::human(state.month_bytes)),
    ])
}

#[derive(Serialize)]
struct Boot {
    slot: &'static str,
}

/// `ioex ota boot`.
pub(super) fn boot(context: &Context, args: &BootArgs) -> anyhow::Result<()> {
    let slot = match open_state(&args.state, args.installed)? {
        Slot::A => "a",
        Slot::B => "b",
    };
    if let Some(path) = &args.running {
        std::fs::write(path, slot)?;
    }
    Ok(context.out.result(&Boot { slot }, |boot| boot.slot.to_owned())?)
}
