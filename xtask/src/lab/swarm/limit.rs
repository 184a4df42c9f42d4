//! What no program can beat: the arithmetic of uplinks.

use std::fmt;

/// How many devices, and what each host may send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Case {
    /// Devices that want the package.
    pub(super) devices: usize,
    /// The origin's uplink.
    pub(super) origin_megabits: u32,
    /// Each device's uplink.
    pub(super) device_megabits: u32,
    /// How many copies the origin should send at most.
    pub(super) copies_aim: f64,
}

/// Bytes a second.
fn rate(megabits: u32) -> f64 {
    f64::from(megabits) * 1e6 / 8.0
}

impl Case {
    /// Seconds in which a package of `bytes` can be everywhere at best: the origin sends each byte
    /// at least once, and all uplinks together send it once to each device. (Kumar and Ross, "Peer-assisted
    /// file distribution: the minimum distribution time", 2006. Its third term, the slowest
    /// downlink, is nothing here: downlinks have no limit.)
    pub(super) fn limit_seconds(&self, bytes: u64) -> f64 {
        let (bytes, devices) = (bytes as f64, self.devices as f64);
        let all = rate(self.origin_megabits) + devices * rate(self.device_megabits);
        (bytes / rate(self.origin_megabits)).max(devices * bytes / all)
    }

    /// The same when the origin sends at most `copies` of the package: the devices send the others.
    pub(super) fn limit_with_copies(&self, bytes: u64, copies: f64) -> f64 {
        let (size, devices) = (bytes as f64, self.devices as f64);
        let others = (devices - copies).max(0.0) * size / (devices * rate(self.device_megabits));
        self.limit_seconds(bytes).max(others)
    }

    /// The limits in words.
    pub(super) fn words(&self, bytes: u64) -> String {
        format!(
            "{self}: limit max(F/origin {:.1} s, N*F/all uplinks {:.1} s) = {:.1} s; \
             with at most {} copies from the origin {:.1} s; a server alone {:.0} s",
            bytes as f64 / rate(self.origin_megabits),
            self.devices as f64 * bytes as f64
                / (rate(self.origin_megabits) + self.devices as f64 * rate(self.device_megabits)),
            self.limit_seconds(bytes),
            self.copies_aim,
            self.limit_with_copies(bytes, self.copies_aim),
            self.devices as f64 * bytes as f64 / rate(self.origin_megabits),
        )
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} devices, {} Mbit/s", self.devices, self.device_megabits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: u64 = 100_000_000;

    fn case(devices: usize, device_megabits: u32) -> Case {
        Case { devices, origin_megabits: 100, device_megabits, copies_aim: 1.5 }
    }

    #[test]
    fn with_wide_uplinks_the_origin_is_the_limit() {
        assert!((case(8, 100).limit_seconds(PACKAGE) - 8.0).abs() < 1e-9);
        assert!((case(32, 100).limit_seconds(PACKAGE) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn with_narrow_uplinks_all_of_them_together_are() {
        // 3.2 GB over 12.5 + 32 * 2.5 MB/s.
        assert!((case(32, 20).limit_seconds(PACKAGE) - 3200.0 / 92.5).abs() < 1e-9);
        // The origin gives 150 MB, the devices the other 3,050 MB at 80 MB/s.
        assert!((case(32, 20).limit_with_copies(PACKAGE, 1.5) - 3050.0 / 80.0).abs() < 1e-9);
    }

    #[test]
    fn sparing_the_origin_never_makes_it_faster() {
        for (devices, megabits) in [(8, 100), (32, 100), (32, 20)] {
            let case = case(devices, megabits);
            for copies in [1.0, 1.5, 4.0, 32.0] {
                assert!(case.limit_with_copies(PACKAGE, copies) >= case.limit_seconds(PACKAGE));
            }
        }
    }
}
