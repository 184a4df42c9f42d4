//! Attacks on updates, each under its name in TUF or Uptane: a real device against a peer that means harm. The peer is a
//! node of the mesh in this process, in the place of a super node that the device is told to ask first.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use ioex_base::{ContentAddress, DAY_SECONDS, NodeKey, Uid, UnixSeconds};
use ioex_net::{
    Mesh, MeshConfig, NoHost, PathKind,
    proto::{ChannelAsk, ChannelFiles, Join, Joined, Match, News, No, Provider, Report, ShardAsk, ShardWant},
    throttle::Throttle,
    updates::{Renewal, Serving, Turn, Updates},
};
use ioex_ota::{
    channel::Channel,
    tuf::{Envelope, FileMeta, Role, Signed, Snapshot, Targets, Timestamp},
};
use serde_json::Value;

use crate::{
    net::{ended, noise, text},
    ota::Fleet,
};

/// How many shards the peer has that serves a part.
const PART_SHARDS: u32 = 4;

/// What the peer does when it is asked for a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// Bytes of the right length.
    Wrong,
    /// The same, without end.
    Endless,
    /// Says that it begins, and sends next to nothing.
    Slowly,
    /// The first two, and nothing else.
    Part,
}

/// The mask of the peer, and of those who help it.
pub(crate) struct Mask {
    pub(crate) uid: Uid,
    /// Whom it names as providers.
    providers: Mutex<Vec<Uid>>,
    files: Mutex<ChannelFiles>,
    /// The sealed manifest, and true shards by number.
    package: Mutex<(Vec<u8>, Vec<Vec<u8>>)>,
    serves: Mutex<Serves>,
    /// How often it was asked for the channel.
    looks: AtomicU64,
    /// How often it was asked for a package's manifest.
    manifests: AtomicU64,
    /// How often it was asked for a shard.
    shards: AtomicU64,
    upload: Throttle,
}

impl Updates for Mask {
    fn exchanges(&self) -> bool {
        true
    }
    fn carries(&self, _address: &ContentAddress) -> bool {
        true
    }
    fn on_roster(&self, _manifest: &ContentAddress, _caller: &Uid) -> bool {
        true
    }
    fn on_a_roster(&self, _caller: &Uid) -> bool {
        false
    }
    fn admits(&self, _caller: &Uid, _join: &Join) -> bool {
        true
    }
    fn is_co_matcher(&self, _channel: &ContentAddress, _caller: &Uid) -> bool {
        false
    }
    fn has_joined(&self, _manifest: &ContentAddress, _caller: &Uid) -> bool {
        true
    }
    fn announced(&self) -> Vec<ContentAddress> {
        Vec::new()
    }
    fn upload(&self) -> &Throttle {
        &self.upload
    }
    fn channel(&self, ask: &ChannelAsk) -> Result<ChannelFiles, No> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let mut files = self.files.lock().unwrap().clone();
        let known = (ask.root_version as usize).min(files.roots.len());
        files.roots.drain(..known);
        Ok(files)
    }
    fn package(&self, _address: &ContentAddress) -> io::Result<Option<(File, u64)>> {
        self.manifests.fetch_add(1, Ordering::Relaxed);
        let sealed = self.package.lock().unwrap().0.clone();
        if sealed.is_empty() {
            return Ok(None);
        }
        let mut file = tempfile::tempfile()?;
        file.write_all(&sealed)?;
        Ok(Some((file, sealed.len() as u64)))
    }
    fn matched(&self, _caller: &Uid, _manifest: &ContentAddress) -> Result<Match, No> {
        let provider = |uid: &Uid| Provider { uid: *uid, origin: true, voucher: b"none".to_vec() };
        Ok(Match {
            pass: Vec::new(),
            providers: self.providers.lock().unwrap().iter().map(provider).collect(),
        })
    }
    fn report(&self, _caller: &Uid, _report: Report) -> Result<(), No> {
        Ok(())
    }
    fn joined(
        &self,
        _caller: &Uid,
        join: Join,
        _path: PathKind,
        tell: tokio::sync::mpsc::Sender<News>,
    ) -> Result<Joined, No> {
        // The exchange lasts as long as somebody may still tell something.
        std::mem::forget(tell);
        let shards = self.package.lock().unwrap().1.len();
        let mut have = vec![0_u8; join.have.len()];
        for shard in 0..shards {
            have[shard / 8] |= 1 << (shard % 8);
        }
        Ok(Joined { have, origin: false, certificate: Vec::new() })
    }
    fn news(&self, _caller: &Uid, _manifest: &ContentAddress, _news: News) {}
    fn parted(&self, _caller: &Uid, _manifest: &ContentAddress) {}
    fn shard(&self, _caller: Uid, ask: ShardAsk) -> Turn {
        self.shards.fetch_add(1, Ordering::Relaxed);
        let serves = *self.serves.lock().unwrap();
        let shard = match ask.want {
            ShardWant::One(shard) => shard,
            ShardWant::Least(_) => 0,
        };
        let bytes = self.package.lock().unwrap().1[shard as usize].clone();
        Box::pin(async move {
            let mut file = tempfile::tempfile().map_err(|_| No::Failed)?;
            let length = match serves {
                Serves::Part if shard < PART_SHARDS => {
                    file.write_all(&bytes).map_err(|_| No::Failed)?;
                    bytes.len() as u32
                }
                Serves::Part => return Err(No::NotFound),
                Serves::Endless => {
                    file.set_len(u64::from(u32::MAX)).map_err(|_| No::Failed)?;
                    u32::MAX
                }
                Serves::Wrong | Serves::Slowly => {
                    file.write_all(&noise(bytes.len(), 4711)).map_err(|_| No::Failed)?;
                    bytes.len() as u32
                }
            };
            Ok(Serving { shard, file, bytes: length, note: Box::new(|_| ()) })
        })
    }
    fn receipt(&self, _caller: &Uid, _receipt: Vec<u8>) -> Result<Vec<u8>, No> {
        Err(No::Failed)
    }
    fn renewed(&self, _caller: Uid, _channel: ContentAddress) -> Renewal {
        Box::pin(std::future::ready(Err(No::NotFound)))
    }
}

/// A fleet of one device, and a peer that it asks first.
pub(crate) struct Attack {
    pub(crate) fleet: Fleet,
    pub(crate) mask: Arc<Mask>,
    pub(crate) mesh: Mesh,
    pub(crate) runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
    helpers: Vec<Mesh>,
}

impl Attack {
    pub(crate) fn start(number: u8) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = NodeKey::from_seed([number; 32]);
        let uid = key.uid();
        let fleet = Fleet::start_asking(1, &[&uid.to_string()]);
        let mask = Arc::new(Mask {
            uid,
            providers: Mutex::new(vec![uid]),
            files: Mutex::default(),
            package: Mutex::default(),
            serves: Mutex::new(Serves::Wrong),
            looks: AtomicU64::new(0),
            manifests: AtomicU64::new(0),
            shards: AtomicU64::new(0),
            upload: Throttle::default(),
        });
        let mesh = runtime.block_on(join(&fleet, key, &dir.path().join("peer"), 0, &mask));
        let attack = Self { fleet, mask, mesh, runtime, dir, helpers: Vec::new() };
        attack.wear(&attack.honest());
        attack
    }

    /// So many more, who do what the peer does; it names all of them.
    fn help(&mut self, count: u8) {
        for n in 1..=count {
            let key = NodeKey::from_seed([200 + n; 32]);
            self.mask.providers.lock().unwrap().push(key.uid());
            let dir = self.dir.path().join(format!("helper-{n}"));
            let joining = join(&self.fleet, key, &dir, n.into(), &self.mask);
            self.helpers.push(self.runtime.block_on(joining));
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        let metadata = self.fleet.channel.join("metadata");
        Channel::load(|name| fs::read(metadata.join(name)).ok()).unwrap()
    }

    fn key(&self, name: &str) -> NodeKey {
        ioex::authority::load(&self.fleet.channel.join("keys").join(format!("{name}.key"))).unwrap()
    }

    pub(crate) fn honest(&self) -> ChannelFiles {
        files_of(&self.channel())
    }

    /// What the peer hands out from now on.
    pub(crate) fn wear(&self, files: &ChannelFiles) {
        *self.mask.files.lock().unwrap() = files.clone();
    }

    fn serve(&self, serves: Serves) {
        *self.mask.serves.lock().unwrap() = serves;
    }

    /// How often the peer was asked for a shard.
    fn asked(&self) -> u64 {
        self.mask.shards.load(Ordering::Relaxed)
    }

    pub(crate) fn manifests_asked(&self) -> u64 {
        self.mask.manifests.load(Ordering::Relaxed)
    }

    fn state(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.fleet.devices[0].wait_for(&["ota", "state"], wanted)
    }

    /// The device looks, finds only the peer, and says why it does not trust it; what runs is as it was.
    fn refused(&self, because: &str) {
        let before = self.mask.looks.load(Ordering::Relaxed);
        self.fleet.devices[0].ask(&["ota", "check"]);
        let state = self.state(|s| {
            let problem = s["problem"].as_str().unwrap_or_default();
            self.mask.looks.load(Ordering::Relaxed) > before && problem.contains(because)
        });
        assert_eq!(state["running"], "1.0.0", "{state}");
        assert_eq!(fs::read(self.fleet.app(0)).unwrap(), b"version 1.0");
    }

    /// Publishes a version and gives the peer its manifest and its shards.
    pub(crate) fn publish(&self, version: &str, image: &[u8]) -> Value {
        let uid = self.mask.uid.to_string();
        let published = self.fleet.publish(version, image, &["--matcher", &uid]);
        let ota = self.fleet.path("super/ota");
        let sealed = fs::read(ota.join("manifests").join(published["manifest"].as_str().unwrap())).unwrap();
        let owner = ioex::authority::load(&self.fleet.channel.join("keys/package.key")).unwrap();
        let (manifest, _) = ioex_vault::open_manifest(&sealed, &owner).unwrap();
        let read = |shard: &ioex_vault::ShardRef| {
            fs::read(ota.join("shards").join(shard.address.to_string())).unwrap()
        };
        *self.mask.package.lock().unwrap() = (sealed, manifest.shards.iter().map(read).collect());
        published
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        for mesh in self.helpers.iter().chain([&self.mesh]) {
            self.runtime.block_on(mesh.shutdown());
        }
    }
}

/// A node of the mesh in this process, with the mask on.
async fn join(fleet: &Fleet, key: NodeKey, dir: &Path, place: u32, mask: &Arc<Mask>) -> Mesh {
    let mut config = MeshConfig::new(key, dir.to_owned());
    config.bind = Some(fleet.net.free_ip(place));
    config.seeds = vec![fleet.net.seed.parse().unwrap()];
    let mesh = Mesh::start(config, Arc::new(NoHost::default())).await.unwrap();
    let updates: Arc<dyn Updates> = mask.clone();
    assert!(mesh.update_with(&updates));
    mesh
}

fn files_of(channel: &Channel) -> ChannelFiles {
    let mut files = ChannelFiles::default();
    let mut roots = Vec::new();
    for (name, bytes) in channel.files() {
        match name.split('.').rev().nth(1) {
            Some("root") => roots.push((name.split('.').next().unwrap().parse::<u64>().unwrap(), bytes)),
            Some("targets") => files.targets = bytes,
            Some("snapshot") => files.snapshot = bytes,
            _ => files.timestamp = bytes,
        }
    }
    roots.sort_unstable();
    files.roots = roots.into_iter().map(|(_, bytes)| bytes).collect();
    files
}

fn read<T: Signed>(role: Role, bytes: &[u8]) -> T {
    Envelope::parse(role, bytes).unwrap().read().unwrap()
}

fn forge<T: Signed>(value: &T, key: &NodeKey) -> Vec<u8> {
    let mut envelope = Envelope::draft(value).unwrap();
    envelope.sign(T::ROLE, key).unwrap();
    envelope.to_bytes(T::ROLE).unwrap()
}

/// Snapshot and timestamp for these targets, so many versions ahead.
fn forged(honest: &ChannelFiles, targets: Vec<u8>, keys: [&NodeKey; 2], ahead: u64) -> ChannelFiles {
    let version = read::<Targets>(Role::Targets, &targets).version;
    let meta = |version| FileMeta { version, length: None, hashes: Default::default() };
    let mut snapshot: Snapshot = read(Role::Snapshot, &honest.snapshot);
    snapshot.version += ahead;
    snapshot.meta = [("targets.json".to_owned(), meta(version))].into();
    let mut timestamp: Timestamp = read(Role::Timestamp, &honest.timestamp);
    timestamp.version += ahead;
    timestamp.meta = [("snapshot.json".to_owned(), meta(snapshot.version))].into();
    let (snapshot, timestamp) = (forge(&snapshot, keys[0]), forge(&timestamp, keys[1]));
    ChannelFiles { roots: honest.roots.clone(), timestamp, snapshot, targets }
}

#[test]
fn arbitrary_package() {
    let mut attack = Attack::start(101);
    attack.publish("1.1", &noise(50_000, 1));
    attack.fleet.net.super_node.kill();
    let thief = NodeKey::from_seed([66; 32]);
    let honest = attack.honest();
    let mut targets: Targets = read(Role::Targets, &honest.targets);
    targets.version += 1;
    attack.wear(&forged(&honest, forge(&targets, &thief), [&thief, &thief], 1));
    attack.refused("valid signatures");
}

#[test]
fn key_compromise_of_one_role_and_its_recovery() {
    let mut attack = Attack::start(102);
    attack.publish("1.1", &noise(50_000, 1));
    // The thief has the targets key, and signs a package of its own with it.
    let (stolen, thief) = (attack.key("targets"), NodeKey::from_seed([66; 32]));
    let honest = attack.honest();
    let mut targets: Targets = read(Role::Targets, &honest.targets);
    targets.version += 1;
    let evil = forged(&honest, forge(&targets, &stolen), [&thief, &thief], 1);
    attack.fleet.net.super_node.kill();
    attack.wear(&evil);
    attack.refused("valid signatures");
    // Its maker replaces the key, and devices follow.
    attack.fleet.net.super_node.run();
    attack.fleet.maker(&["ota", "channel", "rotate", "targets"]);
    assert_ne!(attack.key("targets").uid(), stolen.uid());
    attack.fleet.update_to("1.1.0");
}

#[test]
fn rollback() {
    let mut attack = Attack::start(103);
    let old = attack.honest();
    attack.publish("1.1", &noise(50_000, 1));
    // The device sees the new metadata, and is then shown the old.
    attack.wear(&attack.honest());
    attack.fleet.update_to("1.1.0");
    attack.fleet.net.super_node.kill();
    attack.wear(&old);
    attack.fleet.devices[0].ask(&["ota", "check"]);
    let state = attack.state(|s| s["problem"].as_str().is_some_and(|why| why.contains("older")));
    assert_eq!(state["running"], "1.1.0");
}

#[test]
fn freeze_and_expired_metadata() {
    let mut attack = Attack::start(104);
    attack.publish("1.1", &noise(50_000, 1));
    attack.fleet.net.super_node.kill();
    let mut channel = attack.channel();
    let keys = ["targets", "snapshot", "timestamp"].map(|name| attack.key(name));
    // All that the peer has was signed eight days ago: to the device that is the same as a clock that is ahead.
    let past = UnixSeconds(ioex::render::now().0 - 8 * DAY_SECONDS);
    channel.refresh(&keys, past).unwrap();
    attack.wear(&files_of(&channel));
    attack.refused("expired");
}

#[test]
fn a_clock_that_is_behind() {
    let mut attack = Attack::start(105);
    attack.publish("1.1", &noise(50_000, 1));
    // The firmware is newer than the device's clock says it can be.
    let path = attack.fleet.path("bundle");
    let mut bundle: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    bundle["built"] = Value::from(ioex::render::now().0 + 10 * DAY_SECONDS);
    fs::write(&path, bundle.to_string()).unwrap();
    let device = &mut attack.fleet.devices[0];
    device.kill();
    let _ = fs::remove_file(device.data.join("ota/device.json"));
    // What a first look may have installed is the old firmware's business.
    fs::write(attack.fleet.app(0), b"version 1.0").unwrap();
    let _ = fs::remove_dir_all(attack.fleet.app(0).with_file_name(".app.ota"));
    attack.fleet.devices[0].run();
    attack.fleet.net.super_node.kill();
    attack.wear(&attack.honest());
    attack.refused("clock");
}

#[test]
fn fast_forward_and_its_recovery() {
    let attack = Attack::start(106);
    // The thief has the keys of snapshot and timestamp.
    let keys = [attack.key("snapshot"), attack.key("timestamp")];
    let honest = attack.honest();
    attack.wear(&forged(&honest, honest.targets.clone(), [&keys[0], &keys[1]], u64::MAX / 2));
    attack.fleet.devices[0].ask(&["ota", "check"]);
    attack.state(|s| s["last_check"].is_u64() && s["problem"].is_null());
    attack.wear(&ChannelFiles::default());
    attack.publish("1.1", &noise(50_000, 1));
    attack.refused("older");
    attack.fleet.maker(&["ota", "channel", "rotate", "timestamp"]);
    attack.fleet.maker(&["ota", "channel", "rotate", "snapshot"]);
    attack.fleet.update_to("1.1.0");
}

#[test]
fn mix_and_match() {
    let mut attack = Attack::start(107);
    let old = attack.honest();
    attack.publish("1.1", &noise(50_000, 1));
    attack.fleet.net.super_node.kill();
    attack.wear(&ChannelFiles { targets: old.targets, ..attack.honest() });
    attack.refused("not the one that the role above it names");
}

#[test]
fn wrong_device() {
    let mut attack = Attack::start(108);
    // A package that the same maker signed for another model.
    attack.fleet.publish("1.1", &noise(50_000, 1), &[]);
    let mut channel = attack.channel();
    let keys = ["targets", "snapshot", "timestamp"].map(|name| attack.key(name));
    let now = ioex::render::now();
    let (name, release) = channel.releases().next().map(|(name, r)| (name.to_owned(), r.clone())).unwrap();
    channel.withdraw(&name, &keys, now).unwrap();
    let mut hash = ioex_ota::channel::PackageHash::default();
    hash.update(&noise(50_000, 1));
    let other = ioex_ota::Release { model: "other".to_owned(), ..release };
    channel.publish(other, hash.finish(), &keys, now).unwrap();
    attack.fleet.net.super_node.kill();
    attack.wear(&files_of(&channel));
    attack.refused("nothing for acme box");
}

/// The device gets what it wants, although the peer that it asks as well serves like that. Returns how often the peer
/// was asked for a shard.
fn overcomes(number: u8, serves: Serves) -> u64 {
    let attack = Attack::start(number);
    attack.serve(serves);
    if serves == Serves::Slowly {
        attack.mask.upload.set_rate(Some(300));
    }
    let image = noise(6 << 20, 9);
    let published = attack.publish("1.1", &image);
    attack.wear(&attack.honest());
    attack.fleet.update_to("1.1.0");
    assert!(fs::read(attack.fleet.app(0)).unwrap() == image);
    let state = attack.fleet.devices[0].ask(&["ota", "state"]);
    let month = state["month_bytes"].as_u64().unwrap();
    assert!(month < 2 * published["stored_bytes"].as_u64().unwrap(), "{month} bytes for {published}");
    let asked = attack.asked();
    assert!(asked > 0, "the peer was not asked: {state}");
    asked
}

/// Who is not known yet is asked for two shards at once, and after a wrong one for nothing; on a busy machine each of the
/// two may be taken back before, because another was faster, and be asked for anew.
#[test]
fn malicious_mirror_with_wrong_shards() {
    assert!(overcomes(109, Serves::Wrong) <= 4);
}

#[test]
fn endless_data() {
    overcomes(110, Serves::Endless);
}

/// The peer is never silent: what it owes comes from elsewhere because it is too slow, and for nothing else.
#[test]
fn slow_retrieval() {
    overcomes(111, Serves::Slowly);
}

/// Everybody sends wrong bytes. Nothing is installed, and the device gives up before it has fetched more than twice
/// what it wanted, also when it starts anew. Then somebody honest comes.
#[test]
fn every_peer_malicious() {
    let mut attack = Attack::start(112);
    // Each is believed for two shards.
    attack.help(5);
    let image = noise(1 << 20, 9);
    attack.publish("1.1", &image);
    attack.wear(&attack.honest());
    attack.fleet.net.super_node.kill();
    attack.fleet.devices[0].ask(&["ota", "check"]);
    let gave_up = |s: &Value| s["holding"].as_str().is_some_and(|why| why.contains("failed too often"));
    let mut asked = None;
    for start in 0..2 {
        let state = attack.state(gave_up);
        let (month, length) = (state["month_bytes"].as_u64().unwrap(), image.len() as u64);
        assert!(month > length && month <= 2 * length, "start {start}: {state}");
        assert_eq!(state["running"], "1.0.0", "{state}");
        assert_eq!(fs::read(attack.fleet.app(0)).unwrap(), b"version 1.0");
        assert_eq!(*asked.get_or_insert(attack.asked()), attack.asked(), "nobody is asked again");
        attack.fleet.devices[0].kill();
        attack.fleet.devices[0].run();
    }
    // Its maker hears of it, and its owner may let it try again.
    attack.fleet.net.super_node.run();
    let failed = |s: &Value| s["orders"][0]["stages"]["failed"] == 1;
    let fleet = attack.fleet.net.super_node.wait_for(&["ota", "status"], failed);
    assert!(fleet["orders"][0]["reasons"][0][0].as_str().unwrap().contains("200%"), "{fleet}");
    attack.mask.providers.lock().unwrap().clear();
    attack.fleet.devices[0].ask(&["ota", "forgive"]);
    attack.fleet.update_to("1.1.0");
    assert!(fs::read(attack.fleet.app(0)).unwrap() == image);
}

/// The peer has a part of the package, and nobody has the others.
#[test]
fn partial_bundle() {
    let mut attack = Attack::start(115);
    let image = noise(6 << 20, 9);
    let published = attack.publish("1.1", &image);
    attack.wear(&attack.honest());
    attack.serve(Serves::Part);
    attack.fleet.net.super_node.kill();
    attack.fleet.devices[0].ask(&["ota", "check"]);
    let part: u64 = attack.mask.package.lock().unwrap().1[..PART_SHARDS as usize]
        .iter()
        .map(|shard| shard.len() as u64)
        .sum();
    for _ in 0..2 {
        let before = attack.asked();
        // What came is counted although the attempt never ends.
        let counted = |s: &Value| s["month_bytes"].as_u64().is_some_and(|month| month >= part / 2);
        let state = attack.state(|s| {
            s["progress"]["done_bytes"] == part
                && counted(s)
                && attack.asked() > before + u64::from(PART_SHARDS)
        });
        assert_eq!(state["running"], "1.0.0", "{state}");
        assert_eq!(fs::read(attack.fleet.app(0)).unwrap(), b"version 1.0");
        attack.fleet.devices[0].kill();
        attack.fleet.devices[0].run();
    }
    attack.fleet.net.super_node.run();
    attack.fleet.update_to("1.1.0");
    assert!(fs::read(attack.fleet.app(0)).unwrap() == image);
    let month = attack.fleet.devices[0].ask(&["ota", "state"])["month_bytes"].as_u64().unwrap();
    let stored = published["stored_bytes"].as_u64().unwrap();
    assert!(month < stored + part, "{month} bytes for {stored}: what was here was not fetched again");
}

#[test]
fn a_bundle_that_is_not_there_stops_the_node_with_a_sentence() {
    let fleet = Fleet::start(0);
    let (config, app) = (fleet.path("broken.toml"), fleet.app(0));
    crate::net::write(&app, b"version 1.0");
    let section =
        format!("[ota]\nbundle = \"/nowhere\"\ninstalled = \"1\"\n[ota.install.swap]\npath = {app:?}\n");
    fs::write(&config, section).unwrap();
    let mut command = std::process::Command::new(crate::program());
    command.args(["node", "--config", config.to_str().unwrap(), "--data"]).arg(fleet.path("broken"));
    let output = ended(command);
    let said = text(&output);
    assert!(!output.status.success() && said.contains("the bundle /nowhere"), "{said}");
}
