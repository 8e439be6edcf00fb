//! Network cards before DPDK opens them: whether they are bound to a driver that it can use, and what to do if not.
//!
//! EAL leaves out in silence what it can't use, and the port is then unknown without a reason. The reason is in sysfs.

use std::fs;
use std::path::{Path, PathBuf};

/// Drivers through which user space has a device to itself.
const USER_SPACE: &[&str] = &["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers of the kernel beside which DPDK works: the device stays the kernel's.
const BIFURCATED: &[&str] = &["mlx4_core", "mlx5_core", "mana"];

/// Where the kernel shows devices.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// `/sys`
    pub(super) sys: PathBuf,
    /// `/dev`
    pub(super) dev: PathBuf,
}

impl Default for Tree {
    fn default() -> Self {
        Tree { sys: PathBuf::from("/sys"), dev: PathBuf::from("/dev") }
    }
}

/// A PCI address, `0000:01:00.0`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PciAddress(String);

impl PciAddress {
    /// The address that a port's name is; none for virtual devices. The domain may be left out, as in EAL's arguments.
    pub(super) fn of(name: &str) -> Option<PciAddress> {
        let is_hex = |text: &str, len: usize| text.len() == len && text.bytes().all(|c| c.is_ascii_hexdigit());
        let (device, function) = name.rsplit_once('.')?;
        let parts: Vec<&str> = device.split(':').collect();
        let (domain, bus, device) = match parts.as_slice() {
            [domain, bus, device] => (*domain, *bus, *device),
            [bus, device] => ("0000", *bus, *device),
            _ => return None,
        };
        let is_address = is_hex(domain, 4) && is_hex(bus, 2) && is_hex(device, 2) && is_hex(function, 1);
        is_address.then(|| PciAddress(format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase()))
    }
}

/// Sees whether DPDK can have a device.
///
/// # Errors
/// What is in the way, and the command that takes it away.
pub(super) fn check(tree: &Tree, address: &PciAddress) -> Result<(), String> {
    let PciAddress(address) = address;
    let device = tree.sys.join("bus/pci/devices").join(address);
    if !device.exists() {
        return Err(format!(
            "there is no PCI device {address}; `dpdk-devbind.py --status-dev net` lists network cards"
        ));
    }
    let bind = format!("dpdk-devbind.py --bind=vfio-pci {address}");
    let Some(driver) = link_name(&device.join("driver")) else {
        return Err(format!(
            "the PCI device {address} has no driver; run `modprobe vfio-pci` and `{bind}`, and let it be done at boot \
             (driverctl set-override {address} vfio-pci)"
        ));
    };
    if BIFURCATED.contains(&driver.as_str()) {
        return Ok(());
    }
    if !USER_SPACE.contains(&driver.as_str()) {
        let interfaces = names(&device.join("net"));
        let interface = match interfaces.is_empty() {
            true => String::new(),
            false => format!(" as {}", interfaces.join(", ")),
        };
        return Err(format!(
            "the PCI device {address} is the kernel's{interface}, by its driver {driver}; run `modprobe vfio-pci` and \
             `{bind}`, but not for the card by which you are logged in: the kernel loses it"
        ));
    }
    if driver == "vfio-pci" { check_vfio(tree, &device, address) } else { Ok(()) }
}

fn check_vfio(tree: &Tree, device: &Path, address: &str) -> Result<(), String> {
    let Some(group) = link_name(&device.join("iommu_group")) else {
        return Err(format!(
            "the PCI device {address} has no IOMMU group, which vfio-pci needs; switch VT-d or AMD-Vi on in the firmware \
             and boot with `intel_iommu=on iommu=pt`; on a virtual machine without an IOMMU run `echo 1 > \
             /sys/module/vfio/parameters/enable_unsafe_noiommu_mode` and bind anew"
        ));
    };
    let without_iommu = names(&tree.dev.join("vfio")).contains(&format!("noiommu-{group}"));
    let file = tree.dev.join("vfio").join(if without_iommu { format!("noiommu-{group}") } else { group.clone() });
    if let Err(error) = fs::File::options().read(true).write(true).open(&file) {
        return Err(format!(
            "the PCI device {address} can't be opened: {}: {error}; run as root, or give this user the file (chown, or a \
             udev rule) and a memory lock limit (ulimit -l unlimited)",
            file.display()
        ));
    }
    // VFIO hands a group out as a whole only.
    let others: Vec<String> = names(&device.join("iommu_group/devices"))
        .into_iter()
        .filter(|other| other != address)
        .filter_map(|other| {
            let driver = link_name(&tree.sys.join("bus/pci/devices").join(&other).join("driver"))?;
            let harmless = USER_SPACE.contains(&driver.as_str()) || driver == "pcieport" || driver == "pci-stub";
            (!harmless).then(|| format!("{other} ({driver})"))
        })
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the PCI device {address} shares IOMMU group {group} with {}, which the kernel still uses; bind them to vfio-pci \
         as well, or move the card to another slot",
        others.join(", ")
    ))
}

/// The last part of what a link points to.
fn link_name(link: &Path) -> Option<String> {
    fs::read_link(link).ok()?.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// What is in a directory, in order; nothing where there is none.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const CARD: &str = "0000:01:00.0";

    /// A machine with one card.
    struct Machine {
        tree: Tree,
        _dir: tempfile::TempDir,
    }

    impl Machine {
        fn new(driver: Option<&str>, group: Option<&str>) -> Machine {
            let dir = tempfile::tempdir().unwrap();
            let tree = Tree { sys: dir.path().join("sys"), dev: dir.path().join("dev") };
            fs::create_dir_all(tree.dev.join("vfio")).unwrap();
            let machine = Machine { tree, _dir: dir };
            machine.add(CARD, driver, group);
            machine
        }

        fn add(&self, address: &str, driver: Option<&str>, group: Option<&str>) {
            let device = self.device(address);
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                symlink(format!("../../../bus/pci/drivers/{driver}"), device.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let group = self.tree.sys.join("kernel/iommu_groups").join(group);
                fs::create_dir_all(group.join("devices").join(address)).unwrap();
                symlink(&group, device.join("iommu_group")).unwrap();
            }
        }

        fn device(&self, address: &str) -> PathBuf {
            self.tree.sys.join("bus/pci/devices").join(address)
        }

        fn check(&self) -> Result<(), String> {
            check(&self.tree, &PciAddress::of(CARD).unwrap())
        }

        fn refusal(&self, parts: &[&str]) {
            let refusal = self.check().unwrap_err();
            assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
        }
    }

    #[test]
    fn pci_addresses_are_told_from_virtual_devices() {
        let of = |name| PciAddress::of(name).map(|PciAddress(address)| address);
        assert_eq!(of("0000:01:00.0").as_deref(), Some(CARD));
        assert_eq!(of("01:00.0").as_deref(), Some(CARD));
        assert_eq!(of("0000:AF:00.1").as_deref(), Some("0000:af:00.1"));
        for other in ["net_tap0", "net_af_packet0,iface=wan", "01:00", "0000:01:00.0.0", "1:0.0", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_card_that_is_bound_and_open_will_do() {
        let machine = Machine::new(Some("vfio-pci"), Some("12"));
        fs::write(machine.tree.dev.join("vfio/12"), "").unwrap();
        assert_eq!(machine.check(), Ok(()));
        assert_eq!(Machine::new(Some("uio_pci_generic"), None).check(), Ok(()));
        assert_eq!(Machine::new(Some("mlx5_core"), None).check(), Ok(()), "it stays the kernel's");
        let virtual_machine = Machine::new(Some("vfio-pci"), Some("0"));
        fs::write(virtual_machine.tree.dev.join("vfio/noiommu-0"), "").unwrap();
        assert_eq!(virtual_machine.check(), Ok(()));
    }

    #[test]
    fn what_is_in_the_way_comes_with_what_to_run() {
        let nothing = Machine::new(None, None);
        nothing.refusal(&["has no driver", "dpdk-devbind.py --bind=vfio-pci 0000:01:00.0"]);
        fs::remove_dir_all(nothing.device(CARD)).unwrap();
        nothing.refusal(&["there is no PCI device 0000:01:00.0"]);

        let kernels = Machine::new(Some("ixgbe"), Some("12"));
        fs::create_dir_all(kernels.device(CARD).join("net/eth1")).unwrap();
        kernels.refusal(&["is the kernel's as eth1, by its driver ixgbe", "--bind=vfio-pci"]);

        Machine::new(Some("vfio-pci"), None).refusal(&["no IOMMU group", "intel_iommu=on", "noiommu"]);
        Machine::new(Some("vfio-pci"), Some("12")).refusal(&["can't be opened", "vfio/12", "ulimit -l"]);
    }

    #[test]
    fn a_group_that_is_shared_with_the_kernel_is_told() {
        let machine = Machine::new(Some("vfio-pci"), Some("12"));
        fs::write(machine.tree.dev.join("vfio/12"), "").unwrap();
        machine.add("0000:01:00.1", Some("ixgbe"), Some("12"));
        machine.add("0000:00:01.0", Some("pcieport"), Some("12"));
        machine.refusal(&["shares IOMMU group 12 with 0000:01:00.1 (ixgbe), which"]);
    }
}
