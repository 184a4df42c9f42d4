//! What a device notices about itself, as far as that costs next to nothing: small files that the
//! kernel keeps. Linux does not know whether a Wi-Fi network is metered; for that the owner has a
//! switch (`ioex device set --metered pause`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::policy::Conditions;

/// Longest file of the kernel that is read here, in bytes: a routing table of some hundred routes.
const FILE_MAX_BYTES: u64 = 64 * 1024;
/// Names of links over mobile or dialled networks, where the kernel says nothing more about them.
const METERED_NAMES: [&str; 4] = ["wwan", "ppp", "rmnet", "usb-modem"];

/// Where the kernel keeps its files.
#[derive(Clone, Debug)]
pub(crate) struct Sense {
    sys: PathBuf,
    proc: PathBuf,
}

impl Default for Sense {
    fn default() -> Self {
        Self { sys: PathBuf::from("/sys"), proc: PathBuf::from("/proc") }
    }
}

#[cfg(test)]
impl Sense {
    /// A machine whose files lie below `root`.
    pub(crate) fn at(root: &Path) -> Self {
        Self { sys: root.join("sys"), proc: root.join("proc") }
    }
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path).ok()?.take(FILE_MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

impl Sense {
    /// Looks.
    pub(crate) fn now(&self) -> Conditions {
        let time = jiff::Zoned::now();
        let minute = u16::try_from(i32::from(time.hour()) * 60 + i32::from(time.minute())).unwrap_or(0);
        Conditions { minute, on_battery: self.on_battery(), metered: self.metered() }
    }

    /// Whether the device runs on battery: no supply is online, and a battery of its own is being
    /// emptied. `None` where the kernel keeps no such files.
    fn on_battery(&self) -> Option<bool> {
        let entries = fs::read_dir(self.sys.join("class/power_supply")).ok()?;
        let mut emptied = false;
        for path in entries.flatten().map(|entry| entry.path()) {
            let is = |file: &str, what: &str| read(&path.join(file)).as_deref() == Some(what);
            if is("type", "Battery") {
                // That of a mouse or a headset says nothing about the device.
                emptied |= is("status", "Discharging") && !is("scope", "Device");
            } else if is("online", "1") {
                return Some(false);
            }
        }
        Some(emptied)
    }

    /// The charge of the device's own battery in percent; `None` where the kernel does not say.
    pub(crate) fn battery_percent(&self) -> Option<u8> {
        let entries = fs::read_dir(self.sys.join("class/power_supply")).ok()?;
        let own = entries.flatten().map(|entry| entry.path()).find(|path| {
            let is = |file: &str, what: &str| read(&path.join(file)).as_deref() == Some(what);
            is("type", "Battery") && !is("scope", "Device")
        })?;
        read(&own.join("capacity"))?.parse().ok().filter(|percent| *percent <= 100)
    }

    /// Whether the default route goes over a mobile or dialled link. `None` where there is none.
    fn metered(&self) -> Option<bool> {
        let routes = read(&self.proc.join("net/route"))?;
        // Columns: interface, destination, gateway, flags, …, metric, mask; a header above.
        let default = |line: &str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let zero = |at: usize| columns.get(at).is_some_and(|c| *c == "00000000");
            let metric: u64 = columns.get(6)?.parse().ok()?;
            (zero(1) && zero(7)).then(|| (metric, columns[0].to_owned()))
        };
        let (_, name) = routes.lines().skip(1).filter_map(default).min()?;
        if name.contains('/') {
            return None;
        }
        let about = read(&self.sys.join("class/net").join(&name).join("uevent")).unwrap_or_default();
        let mobile = about.lines().any(|line| line == "DEVTYPE=wwan");
        Some(mobile || METERED_NAMES.iter().any(|start| name.starts_with(start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        fn sense(&self) -> Sense {
            Sense::at(self.0.path())
        }
    }

    #[test]
    fn a_battery_is_noticed() {
        let machine = Machine::new();
        assert_eq!(machine.sense().on_battery(), None);
        fs::create_dir_all(machine.0.path().join("sys/class/power_supply")).unwrap();
        assert_eq!(machine.sense().on_battery(), Some(false), "a desktop has no battery");
        machine.file("sys/class/power_supply/hid/type", "Battery");
        machine.file("sys/class/power_supply/hid/scope", "Device");
        machine.file("sys/class/power_supply/hid/status", "Discharging");
        assert_eq!(machine.sense().on_battery(), Some(false), "that is a mouse");
        machine.file("sys/class/power_supply/BAT0/type", "Battery");
        machine.file("sys/class/power_supply/BAT0/status", "Discharging");
        machine.file("sys/class/power_supply/AC/type", "Mains");
        machine.file("sys/class/power_supply/AC/online", "0");
        assert_eq!(machine.sense().on_battery(), Some(true));
        machine.file("sys/class/power_supply/AC/online", "1");
        assert_eq!(machine.sense().on_battery(), Some(false));
    }

    #[test]
    fn a_mobile_link_is_noticed() {
        let machine = Machine::new();
        assert_eq!(machine.sense().metered(), None);
        let routes = |lines: &str| {
            let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
            machine.file("proc/net/route", &format!("{head}\n{lines}"));
        };
        routes("eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0");
        assert_eq!(machine.sense().metered(), None, "no default route");
        let eth = "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0";
        let stick = "enx1\t00000000\t0108A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0";
        machine.file("sys/class/net/enx1/uevent", "DEVTYPE=wwan\nINTERFACE=enx1");
        routes(&format!("{stick}\n{eth}"));
        assert_eq!(machine.sense().metered(), Some(false), "the wire is preferred");
        routes(stick);
        assert_eq!(machine.sense().metered(), Some(true));
        routes("ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0");
        assert_eq!(machine.sense().metered(), Some(true));
        routes("../x\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\njunk");
        assert_eq!(machine.sense().metered(), None);
    }
}
