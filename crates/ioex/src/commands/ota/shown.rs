//! What people and programs see of a maker's channel.

use std::path::PathBuf;

use ioex_api::{OtaMissed, OtaOrderInfo};
use ioex_base::{ContentAddress, Uid, UnixSeconds};
use ioex_ota::{
    Release,
    rollout::Rollout,
    tuf::{Date, Role},
};
use serde::Serialize;

use crate::{
    channel_folder::ChannelFolder,
    render::{self, Table},
    size,
};

#[derive(Serialize)]
pub(super) struct Shown {
    pub(super) channel: ContentAddress,
    brand: String,
    model: String,
    root_version: u64,
    /// How many root keys must sign a change of keys.
    root_threshold: usize,
    root_keys: Vec<ShownKey>,
    expires: Vec<(String, String)>,
    releases: Vec<ShownRelease>,
    /// Matchers that were to be told of a change, and could not be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) missed: Vec<OtaMissed>,
}

#[derive(Serialize)]
struct ShownKey {
    uid: Uid,
    /// Where it lies in the channel's folder; absent when it lies elsewhere.
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct ShownRelease {
    version: String,
    manifest: ContentAddress,
    bytes: u64,
    images: usize,
    matchers: Vec<Uid>,
    /// Absent: everybody at once.
    rollout: Option<ShownRollout>,
    /// Whether failures keep others from beginning at the node here; absent when it has no order for it.
    stopped: Option<bool>,
}

#[derive(Serialize)]
struct ShownRollout {
    course: &'static str,
    steps: Vec<ShownStep>,
    /// Devices that do not wait for a step.
    first: Vec<Uid>,
    /// More failures than this, in percent of the results, keep others from beginning,
    stop_percent: f64,
    /// once there are so many results.
    stop_after: u32,
}

#[derive(Serialize)]
struct ShownStep {
    from: UnixSeconds,
    percent: f64,
}

fn percent(per_myriad: u16) -> f64 {
    f64::from(per_myriad) / 100.0
}

fn rollout(rollout: &Rollout) -> ShownRollout {
    let step =
        |step: &ioex_ota::rollout::Step| ShownStep { from: step.from, percent: percent(step.per_myriad) };
    ShownRollout {
        course: rollout.course.name(),
        steps: rollout.steps.iter().map(step).collect(),
        first: rollout.first.clone(),
        stop_percent: percent(rollout.stop.max_failed_per_myriad),
        stop_after: rollout.stop.min_results,
    }
}

/// A channel; `orders` are those of the node here.
pub(super) fn show(folder: &ChannelFolder, orders: &[OtaOrderInfo]) -> anyhow::Result<Shown> {
    let channel = &folder.channel;
    let release = |(_, release): (&str, &Release)| ShownRelease {
        version: release.version.to_string(),
        manifest: release.manifest,
        bytes: release.length(),
        images: release.images.len(),
        matchers: release.matchers.clone(),
        rollout: release.rollout.as_ref().map(rollout),
        stopped: orders.iter().find(|order| order.manifest == release.manifest).map(|order| order.stopped),
    };
    // A folder that came to another matcher has no secret keys.
    let here = folder.root_keys().unwrap_or_default();
    let key = |uid: Uid| ShownKey {
        uid,
        file: here.iter().find(|(_, key)| key.uid() == uid).map(|(path, _)| path.clone()),
    };
    let (root_keys, root_threshold) = channel.root().signers(Role::Root).unwrap_or_default();
    Ok(Shown {
        channel: folder.address(),
        brand: folder.brand.clone(),
        model: folder.model.clone(),
        root_version: channel.root().version,
        root_threshold,
        root_keys: root_keys.into_values().map(key).collect(),
        expires: Role::ALL
            .iter()
            .map(|role| (role.to_string(), channel.expires(*role).to_string()))
            .collect(),
        releases: channel.releases().map(release).collect(),
        missed: Vec::new(),
    })
}

/// The root keys, one in each line.
pub(super) fn root_keys(shown: &Shown) -> String {
    let line = |key: &ShownKey| {
        let place =
            key.file.as_ref().map_or_else(|| "elsewhere".to_owned(), |path| path.display().to_string());
        format!("root key {}  {}\n", key.uid, render::printable(&place))
    };
    shown.root_keys.iter().map(line).collect()
}

fn rollout_text(rollout: &ShownRollout, now: UnixSeconds) -> String {
    let step = |step: &ShownStep| match step.from > now {
        true => format!("{}% from {}", step.percent, Date(step.from)),
        false => format!("{}%", step.percent),
    };
    let reached = rollout.steps.iter().rposition(|step| step.from <= now).unwrap_or(0);
    let steps: Vec<String> = rollout.steps[reached..].iter().map(step).collect();
    format!("{}, {}", rollout.course, steps.join(", "))
}

pub(super) fn human(shown: &Shown) -> String {
    let now = render::now();
    let expires: Vec<String> = shown.expires.iter().map(|(role, date)| format!("{role} {date}")).collect();
    let head = render::fields([
        ("channel", shown.channel.to_string()),
        ("devices", format!("{} {}", shown.brand, shown.model)),
        (
            "root",
            format!(
                "version {}, {} of {} keys sign",
                shown.root_version,
                shown.root_threshold,
                shown.root_keys.len()
            ),
        ),
        ("holds until", expires.join(", ")),
    ]);
    let mut table = Table::new(["version", "size", "images", "rollout", "manifest"]).right([1, 2]);
    let mut notes = String::new();
    for release in &shown.releases {
        table.row([
            release.version.clone(),
            size::human(release.bytes),
            release.images.to_string(),
            release.rollout.as_ref().map_or_else(|| "everybody".to_owned(), |r| rollout_text(r, now)),
            release.manifest.to_string(),
        ]);
        if let Some(rollout) = &release.rollout {
            let first = match rollout.first.len() {
                0 => String::new(),
                n => format!("; {n} named devices go first"),
            };
            notes += &format!(
                "{}: stops by itself when more than {}% of at least {} results failed{first}\n",
                release.version, rollout.stop_percent, rollout.stop_after
            );
        }
        if release.stopped == Some(true) {
            notes += &format!(
                "{} IS STOPPED: too many failed (`ioex ota status`). `ioex ota rollout {} --resume` goes on and counts \
                 failures anew\n",
                release.version, release.version
            );
        }
    }
    format!("{head}{}\n{}{notes}", root_keys(shown), table.text_or("no version yet: `ioex ota publish`\n"))
}
