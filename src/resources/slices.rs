//! The cgroups of pods as slices of systemd, for `cgroupDriver: systemd`.
//!
//! systemd makes, sets and removes a slice's cgroup; what it does not know of (hierarchies and
//! controllers that it leaves alone, huge pages) is done in the file system besides, as by runc's
//! library, which upstream's kubelet uses. Both get the same values, so neither undoes what the
//! other wrote.

use std::collections::BTreeSet;

use super::apply::Backend;
use super::cgroup_names::SLICE;
use super::pod_config::{CgroupSettings, Figures, Reading};
use crate::linux::cgroup::{CgroupError, CgroupFs, cpu_weight};
use crate::linux::systemd::{Property, Systemd, SystemdError};

/// systemd has a quota as whole percents of a CPU: microseconds per second in steps of this.
const QUOTA_STEP: u64 = 10_000;
/// The period of a quota that has none, in microseconds: the kernel's.
const DEFAULT_PERIOD: u64 = 100_000;
/// systemd's "no limit".
const INFINITY: u64 = u64::MAX;

/// Slices, and the cgroup file systems below them.
#[derive(Clone, Debug)]
pub struct Slices {
    fs: CgroupFs,
    systemd: Systemd,
}

impl Slices {
    /// Slices that `systemd` keeps in `fs`.
    pub fn new(fs: CgroupFs, systemd: Systemd) -> Self {
        Self { fs, systemd }
    }
}

impl Backend for Slices {
    fn validate(&self, path: &str) -> Result<(), CgroupError> {
        self.fs.validate(path)
    }

    fn create(&self, top: &str, path: &str) -> Result<(), CgroupError> {
        if let Some(unit) = slice_of(path) {
            self.systemd
                .start_slice(unit, &birth(unit, path, self.unified()))
                .map_err(failed(unit))?;
        }
        self.fs.create(top, path)
    }

    fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), CgroupError> {
        let settings = rounded(settings);
        let properties = properties(&settings, self.unified());
        if let Some(unit) = slice_of(path).filter(|_| !properties.is_empty()) {
            // Without systemd's word the files would be undone at its next reload.
            self.systemd.set_properties(unit, &properties).map_err(failed(unit))?;
        }
        self.fs.update(path, &settings)
    }

    fn read(&self, path: &str) -> Result<Reading, CgroupError> {
        self.fs.read(path)
    }

    fn kept(&self, figures: Figures) -> Figures {
        self.fs.kept(Figures::from(&rounded(&figures.settings())))
    }

    fn children(&self, path: &str) -> Result<BTreeSet<String>, CgroupError> {
        self.fs.children(path)
    }

    fn kill(&self, path: &str) -> Result<usize, CgroupError> {
        self.fs.kill(path)
    }

    fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let stopped = match slice_of(path).filter(|_| self.fs.exists(path)) {
            Some(unit) => self.systemd.stop(unit).map_err(failed(unit)),
            None => Ok(()),
        };
        // What is left in the other hierarchies goes even if systemd did not do its part.
        self.fs.remove(path).and(stopped)
    }
}

impl Slices {
    fn unified(&self) -> bool {
        self.fs.layout().version() == 2
    }
}

/// The slice whose cgroup `path` is; none for a cgroup that is no slice.
fn slice_of(path: &str) -> Option<&str> {
    path.rsplit('/').next().filter(|name| name.strip_suffix(SLICE).is_some())
}

fn failed(unit: &str) -> impl FnOnce(SystemdError) -> CgroupError {
    move |source| CgroupError::Slice { unit: unit.to_owned(), source }
}

/// What a slice begins with: everything is counted, and it is in the slice above it.
fn birth(unit: &str, path: &str, unified: bool) -> Vec<Property> {
    let parent = path.rsplit('/').nth(1).filter(|name| !name.is_empty()).unwrap_or("-.slice");
    vec![
        ("Description", format!("libcontainer container {unit}").into()),
        ("Wants", vec![parent.to_owned()].into()),
        ("MemoryAccounting", true.into()),
        ("CPUAccounting", true.into()),
        (if unified { "IOAccounting" } else { "BlockIOAccounting" }, true.into()),
        ("TasksAccounting", true.into()),
        ("DefaultDependencies", false.into()),
    ]
}

/// Settings as systemd can hold them: a quota is rounded up to its steps, so that what is written
/// beside it is the same.
fn rounded(settings: &CgroupSettings) -> CgroupSettings {
    let mut settings = settings.clone();
    if let Some(quota) =
        settings.cpu_quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0)
    {
        let period = period_of(&settings);
        let per_second = per_second(quota, period);
        if !(quota.saturating_mul(1_000_000) / period).is_multiple_of(QUOTA_STEP) {
            settings.cpu_quota = i64::try_from(per_second.saturating_mul(period) / 1_000_000).ok();
        }
    }
    settings
}

fn period_of(settings: &CgroupSettings) -> u64 {
    settings.cpu_period.filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD)
}

/// Microseconds per second, in whole steps.
fn per_second(quota: u64, period: u64) -> u64 {
    (quota.saturating_mul(1_000_000) / period).div_ceil(QUOTA_STEP).saturating_mul(QUOTA_STEP)
}

/// The settings as properties of the unit.
fn properties(settings: &CgroupSettings, unified: bool) -> Vec<Property> {
    let mut found: Vec<Property> = Vec::new();
    if let Some(limit) = settings.memory.filter(|limit| *limit != 0) {
        let name = if unified { "MemoryMax" } else { "MemoryLimit" };
        found.push((name, u64::try_from(limit).unwrap_or(INFINITY).into()));
    }
    if let Some(shares) = settings.cpu_shares.filter(|shares| *shares != 0) {
        found.push(if unified {
            ("CPUWeight", cpu_weight(shares).into())
        } else {
            ("CPUShares", shares.into())
        });
    }
    if let Some(period) = settings.cpu_period.filter(|period| *period > 0) {
        found.push(("CPUQuotaPeriodUSec", period.into()));
    }
    let quota = settings.cpu_quota.filter(|quota| *quota != 0);
    if quota.is_some() || settings.cpu_period.is_some_and(|period| period > 0) {
        let quota = quota.and_then(|quota| u64::try_from(quota).ok());
        let share = quota.map_or(INFINITY, |quota| per_second(quota, period_of(settings)));
        found.push(("CPUQuotaPerSecUSec", share.into()));
    }
    if let Some(limit) = settings.pids {
        // systemd takes no zero: upstream's library makes one of it.
        let limit = u64::try_from(limit).map_or(INFINITY, |limit| limit.max(1));
        found.push(("TasksMax", limit.into()));
    }
    if let Some(cpus) = settings.cpus.as_deref().and_then(bits) {
        found.push(("AllowedCPUs", cpus.into()));
    }
    found
}

/// A list of CPUs (`0-3,5`) as systemd has it: a bit each, the first CPU in the lowest bit of the
/// first byte.
fn bits(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel has.
    const MOST: usize = 1 << 16;
    let mut bits = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (lowest, highest) = range.split_once('-').unwrap_or((range, range));
        let (lowest, highest): (usize, usize) =
            (lowest.trim().parse().ok()?, highest.trim().parse().ok()?);
        for cpu in lowest..=highest.min(MOST) {
            if bits.len() <= cpu / 8 {
                bits.resize(cpu / 8 + 1, 0);
            }
            bits[cpu / 8] |= 1 << (cpu % 8);
        }
    }
    (!bits.is_empty()).then_some(bits)
}

#[cfg(test)]
mod tests {
    use zbus::zvariant::Value;

    use super::{CgroupSettings, INFINITY, birth, bits, properties, rounded, slice_of};

    const NONE: CgroupSettings = CgroupSettings {
        cpu_shares: None,
        cpu_quota: None,
        cpu_period: None,
        memory: None,
        pids: None,
        huge_pages: None,
        cpus: None,
    };

    #[track_caller]
    fn shown(settings: &CgroupSettings, unified: bool) -> Vec<(&'static str, u64)> {
        let number = |value: Value<'static>| u64::try_from(value).expect("a number");
        properties(&rounded(settings), unified)
            .into_iter()
            .map(|(name, value)| (name, number(value)))
            .collect()
    }

    #[test]
    fn limits_have_the_names_of_the_hierarchy() {
        let settings = CgroupSettings {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(100),
            ..NONE
        };
        let quota =
            [("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", 500_000), ("TasksMax", 100)];
        assert_eq!(
            shown(&settings, false),
            [&[("MemoryLimit", 1 << 20), ("CPUShares", 1024)][..], &quota].concat()
        );
        assert_eq!(
            shown(&settings, true),
            [&[("MemoryMax", 1 << 20), ("CPUWeight", 39)][..], &quota].concat()
        );
    }

    #[test]
    fn no_limit_is_infinity_and_what_is_not_set_is_left_alone() {
        let settings =
            CgroupSettings { cpu_quota: Some(-1), memory: Some(-1), pids: Some(-1), ..NONE };
        let wanted =
            [("MemoryMax", INFINITY), ("CPUQuotaPerSecUSec", INFINITY), ("TasksMax", INFINITY)];
        assert_eq!(shown(&settings, true), wanted);
        assert_eq!(
            shown(&CgroupSettings { cpu_quota: Some(0), memory: Some(0), ..NONE }, true),
            []
        );
        assert_eq!(shown(&NONE, false), []);
        let none_at_all = CgroupSettings { pids: Some(0), ..NONE };
        assert_eq!(shown(&none_at_all, true), [("TasksMax", 1)], "systemd takes no zero");
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_percents_in_both_places() {
        let of = |quota, period| {
            rounded(&CgroupSettings { cpu_quota: Some(quota), cpu_period: period, ..NONE })
                .cpu_quota
        };
        assert_eq!(of(50_000, Some(100_000)), Some(50_000));
        assert_eq!(of(50_001, Some(100_000)), Some(51_000));
        assert_eq!(of(1_100, None), Some(2_000));
        assert_eq!(of(-1, None), Some(-1));
        let settings = CgroupSettings { cpu_quota: Some(1_100), ..NONE };
        assert_eq!(shown(&settings, true), [("CPUQuotaPerSecUSec", 20_000)]);
    }

    #[test]
    fn cpus_are_bits() {
        assert_eq!(bits("0-3,5,9"), Some(vec![0b0010_1111, 0b10]));
        assert_eq!(bits("x"), None);
        assert_eq!(bits(""), None);
    }

    #[test]
    fn a_slice_wants_the_one_above_it() {
        let wants = |path: &str| {
            let unit = slice_of(path).expect("a slice").to_owned();
            let all = birth(&unit, path, true);
            all.into_iter()
                .find(|(name, _)| *name == "Wants")
                .map(|(_, value)| value)
                .expect("it wants")
        };
        assert_eq!(wants("/kubepods.slice"), Value::from(vec!["-.slice".to_owned()]));
        assert_eq!(
            wants("/kubepods.slice/kubepods-podx.slice"),
            Value::from(vec!["kubepods.slice".to_owned()])
        );
        assert_eq!(slice_of("/system"), None);
        assert_eq!(slice_of("/"), None);
    }
}
