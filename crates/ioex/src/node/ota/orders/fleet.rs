//! What a maker sees of its fleet.

use std::collections::{BTreeMap, HashMap, HashSet};

use ioex_api::{OtaChannelInfo, OtaFleet, OtaOrderInfo, OtaStage};
use ioex_base::{ContentAddress, Uid};
use ioex_ota::Release;

use super::{Orders, Running, Told};
use crate::node::{files, lock};

/// Different reasons of failures that are shown.
const REASONS_MAX: usize = 20;

/// The devices of one channel, over all its orders.
#[derive(Default)]
struct Devices<'a> {
    roster: HashSet<&'a Uid>,
    /// The last word of each device.
    last: HashMap<&'a Uid, &'a Told>,
}

impl Orders {
    /// How the fleet is doing; `releases` are those of a channel that this node carries.
    pub(in super::super) fn fleet(&self, releases: impl Fn(&ContentAddress) -> Vec<Release>) -> OtaFleet {
        // Read from files: not under the lock at which the door asks.
        let channels: HashSet<ContentAddress> =
            lock(&self.running).values().map(|running| running.file.channel).collect();
        let releases: HashMap<ContentAddress, Vec<Release>> =
            channels.into_iter().map(|channel| (channel, releases(&channel))).collect();
        let of = |channel: &ContentAddress| releases.get(channel).map_or(&[][..], Vec::as_slice);
        let all = lock(&self.running);
        let mut channels: BTreeMap<ContentAddress, Devices<'_>> = BTreeMap::new();
        for running in all.values() {
            let devices = channels.entry(running.file.channel).or_default();
            devices.roster.extend(&running.roster);
            for (uid, told) in &running.fleet {
                let last = devices.last.entry(uid).or_insert(told);
                if last.at < told.at {
                    *last = told;
                }
            }
        }
        let channel = |(channel, devices): (ContentAddress, Devices<'_>)| {
            let mut versions: BTreeMap<String, u64> = BTreeMap::new();
            for told in devices.last.values() {
                *versions.entry(told.running.clone()).or_default() += 1;
            }
            let names = of(&channel).first().map(|release| (release.brand.clone(), release.model.clone()));
            let (brand, model) = names.unwrap_or_default();
            let (roster, heard) = (devices.roster.len() as u64, devices.last.len() as u64);
            OtaChannelInfo { channel, brand, model, roster, heard, versions }
        };
        let channels = channels.into_iter().map(channel).collect();
        let mut orders: Vec<(&ContentAddress, &Running)> = all.iter().collect();
        let age = |running: &Running| (running.file.taken, running.order.version);
        orders.sort_by_key(|(_, running)| std::cmp::Reverse(age(running)));
        let order = |(manifest, running): (&ContentAddress, &Running)| {
            let found = of(&running.file.channel).iter().find(|release| release.manifest == *manifest);
            running.show(manifest, found)
        };
        OtaFleet { channels, orders: orders.into_iter().map(order).collect() }
    }
}

impl Running {
    fn show(&self, manifest: &ContentAddress, release: Option<&Release>) -> OtaOrderInfo {
        let mut stages: BTreeMap<String, u64> = BTreeMap::new();
        let mut versions: BTreeMap<String, u64> = BTreeMap::new();
        let mut reasons: HashMap<&str, u64> = HashMap::new();
        let mut bytes = [0_u64; 4];
        for told in self.fleet.values() {
            *stages.entry(told.stage.name().to_owned()).or_default() += 1;
            *versions.entry(told.running.clone()).or_default() += 1;
            for (sum, more) in bytes.iter_mut().zip(told.bytes) {
                *sum = sum.saturating_add(more);
            }
            if told.stage == OtaStage::Failed {
                *reasons.entry(&told.reason).or_default() += 1;
            }
        }
        let mut reasons: Vec<(String, u64)> =
            reasons.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
        reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        reasons.truncate(REASONS_MAX);
        let course = release.and_then(|release| release.rollout.as_ref()).map(|rollout| rollout.course);
        OtaOrderInfo {
            channel: self.file.channel,
            manifest: *manifest,
            version: self.order.version.to_string(),
            brand: release.map(|release| release.brand.clone()).unwrap_or_default(),
            model: release.map(|release| release.model.clone()).unwrap_or_default(),
            course: course.map(|course| course.name().to_owned()),
            taken: self.file.taken,
            roster: self.roster.len() as u64,
            quantity: u64::from(self.order.quantity),
            heard: self.fleet.len() as u64,
            stages,
            versions,
            reasons,
            by_source: bytes,
            stopped: self.is_stopped(),
            ended: self.ended(files::now()),
            expires: self.order.expires,
            served_bytes: 0,
        }
    }
}
