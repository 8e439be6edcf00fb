//! Finds libdpdk by pkg-config, makes bindings of the functions that this crate uses, and compiles the shim for the
//! static inlines among them.

use std::env;
use std::path::PathBuf;
use std::process::exit;

const HEADER: &str = "c/dpdk.h";

/// From this release on the API that we use is the same.
const OLDEST: &str = "21.11";

const FUNCTIONS: &[&str] = &[
    "dpdk_errno",
    "rte_delay_us_sleep",
    "rte_eal_(init|cleanup|remote_launch|wait_lcore|get_lcore_state|hotplug_add|hotplug_remove)",
    "rte_eth_dev_(get_port_by_name|get_name_by_port|info_get|configure|start|stop|close|socket_id|get_mtu|set_mtu)",
    "rte_eth_(rx|tx)_(queue_setup|burst)",
    "rte_eth_(find_next_owned_by|promiscuous_enable|stats_get|link_get_nowait|macaddr_get)",
    "rte_ip_frag_table_del_expired_entries",
    "rte_get_(main_lcore|next_lcore|tsc_hz)",
    "rte_ip_frag_table_(create|destroy)",
    "rte_ipv[46]_frag_reassemble_packet",
    "rte_mempool_(avail_count|in_use_count|obj_iter)",
    "rte_pktmbuf_(pool_create|alloc|free|free_bulk)",
    "rte_rdtsc",
    "rte_ring_(create|free|sp_enqueue_burst|sc_dequeue_burst|count)",
    "rte_strerror",
    "rte_tel_data_.*",
    "rte_telemetry_register_cmd",
    "rte_version",
];

const TYPES: &[&str] =
    &["rte_eth_conf", "rte_ipv4_hdr", "rte_ipv6_hdr", "rte_ipv6_fragment_ext", "rte_ip_frag_death_row"];

const VALUES: &[&str] =
    &["RTE_MAX_LCORE", "RTE_PKTMBUF_HEADROOM", "DPDK_RSS_(FLOWS|ESP)", "RTE_MBUF_F_(INDIRECT|EXTERNAL)"];

fn main() {
    println!("cargo:rerun-if-changed={HEADER}");
    println!("cargo:rerun-if-changed=build.rs");
    let library = pkg_config::Config::new().atleast_version(OLDEST).probe("libdpdk").unwrap_or_else(|error| {
        println!("cargo::error=DPDK {OLDEST} or newer is needed: apt-get install libdpdk-dev libclang-dev ({error})");
        exit(1);
    });
    // pkg-config names the oldest CPU that this DPDK runs on, and headers that must come first.
    let flags = pkg_config_flags();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let shim = out.join("shim.c");

    let mut builder = bindgen::Builder::default()
        .header(HEADER)
        .clang_args(&flags)
        .clang_args(library.include_paths.iter().map(|path| format!("-I{}", path.display())))
        .wrap_static_fns(true)
        .wrap_static_fns_path(&shim)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false)
        .merge_extern_blocks(true);
    builder = FUNCTIONS.iter().fold(builder, |builder, name| builder.allowlist_function(name));
    builder = TYPES.iter().fold(builder, |builder, name| builder.allowlist_type(name));
    builder = VALUES.iter().fold(builder, |builder, name| builder.allowlist_var(name));
    let bindings = builder.generate().unwrap_or_else(|error| {
        println!("cargo::error=bindgen can't read DPDK's headers: {error}; is libclang-dev installed?");
        exit(1);
    });
    if let Err(error) = bindings.write_to_file(out.join("sys.rs")) {
        println!("cargo::error=can't write the bindings: {error}");
        exit(1);
    }

    let mut build = cc::Build::new();
    build.file(&shim).include(".").includes(&library.include_paths).warnings(false).opt_level(3);
    flags.iter().for_each(|flag| {
        build.flag(flag);
    });
    build.compile("dpdk_shim");
}

/// The compiler flags that aren't include paths.
fn pkg_config_flags() -> Vec<String> {
    let output = std::process::Command::new("pkg-config").args(["--cflags-only-other", "libdpdk"]).output();
    let flags = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    flags.split_whitespace().map(str::to_owned).collect()
}
