//! Finds libdpdk, binds the exact list of names this crate uses, and compiles the shim for its static inlines.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first release with the `RTE_ETH_`/`RTE_MBUF_F_` names and `rte_eth_rxmode.mtu` that the shim relies on.
const OLDEST: &str = "21.11";
const HEADER: &str = "c/shim.h";

/// Functions that DPDK exports, or has as static inlines (bindgen tells which and wraps the latter).
const FUNCTIONS: &[&str] = &[
    "rte_eal_(init|cleanup|remote_launch|wait_lcore|mp_wait_lcore|hotplug_add|hotplug_remove|get_runtime_dir)",
    "rte_(strerror|version|socket_id)",
    "rte_get_(tsc_hz|tsc_cycles|main_lcore|next_lcore)",
    "rte_lcore_(id|to_socket_id)",
    "rte_pktmbuf_(pool_create|alloc|alloc_bulk|free|free_bulk)",
    "rte_mempool_(in_use_count|avail_count|obj_iter)",
    "rte_eth_dev_(count_avail|get_port_by_name|get_name_by_port|info_get|socket_id|is_valid_port|configure)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|start|stop|close|rss_hash_conf_get)",
    "rte_eth_dev_(rx_offload_name|tx_offload_name)",
    "rte_eth_find_next",
    "rte_eth_macaddr_get",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_get_mtu",
    "rte_eth_stats_get",
    "rte_eth_promiscuous_(enable|disable|get)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_(rx|tx)_burst",
    "rte_ring_(create|free|count)",
    "rte_ring_sp_enqueue_burst",
    "rte_ring_sc_dequeue_burst",
    "rte_ip_frag_table_(create|destroy|del_expired_entries)",
    "rte_ipv[46]_frag_reassemble_packet",
    "rte_ipv4_cksum",
    "rte_cryptodev_(count|name_get|get_dev_id|is_valid_dev|info_get|socket_id|start|stop|close)",
    "rte_cryptodev_sym_(session_pool_create|get_private_session_size)",
    "rte_cryptodev_(enqueue|dequeue)_burst",
    "rte_telemetry_register_cmd",
    "rte_tel_data_(alloc|free|start_dict|string|add_array_string)",
    "rte_tel_data_(add_dict_string|add_dict_container)",
    "shim_.*",
];

const TYPES: &[&str] =
    &["rte_eth_conf", "rte_eth_dev_info", "rte_eth_stats", "rte_ip_frag_death_row", "rte_cryptodev_info"];

const CONSTANTS: &[&str] =
    &["RTE_MAX_LCORE", "RTE_MAX_ETHPORTS", "RTE_PKTMBUF_HEADROOM", "RTE_TEL_MAX_(DICT|ARRAY)_ENTRIES", "SHIM_.*"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={HEADER}");
    println!("cargo:rerun-if-changed=build.rs");

    let dpdk = pkg_config::Config::new().atleast_version(OLDEST).probe("libdpdk").map_err(|cause| {
        format!(
            "DPDK {OLDEST} or newer was not found by pkg-config. Install it with `apt-get install libdpdk-dev \
             libclang-dev`, or set PKG_CONFIG_PATH to the directory that holds libdpdk.pc.\n{cause}"
        )
    })?;
    println!("cargo:rustc-env=DPDK_BUILD_VERSION={}", dpdk.version);

    let cflags = cflags()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let wrappers = out.join("wrappers");
    bindings(&cflags, &wrappers)?.write_to_file(out.join("sys.rs"))?;
    shim(&cflags, &wrappers.with_extension("c"));
    Ok(())
}

/// Every compiler flag of libdpdk.pc: `-include rte_config.h` and `-march` matter as much as the include paths, and
/// the pkg-config crate does not hand them on.
fn cflags() -> Result<Vec<String>, Box<dyn Error>> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(&tool).args(["--cflags", "libdpdk"]).output()?;
    if !output.status.success() {
        return Err(format!("`{tool} --cflags libdpdk` failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.split_whitespace().map(str::to_owned).collect())
}

fn bindings(cflags: &[String], wrappers: &Path) -> Result<bindgen::Bindings, Box<dyn Error>> {
    let mut builder = bindgen::Builder::default()
        .header(HEADER)
        .clang_args(cflags)
        .use_core()
        .generate_comments(false)
        .layout_tests(true)
        .merge_extern_blocks(true)
        // The fields of an mbuf sit in anonymous unions whose names change between releases: the shim gives offsets.
        .opaque_type("rte_mbuf")
        .opaque_type("rte_mempool")
        .opaque_type("rte_ring")
        .opaque_type("rte_device")
        .opaque_type("rte_crypto_op")
        .opaque_type("rte_cryptodev_capabilities")
        .opaque_type("rte_ipv4_hdr")
        .opaque_type("rte_ipv6_hdr")
        .opaque_type("rte_ipv6_fragment_ext")
        .opaque_type("rte_tel_data")
        .wrap_static_fns(true)
        .wrap_static_fns_path(wrappers);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    builder.generate().map_err(|cause| {
        format!("bindgen could not read the headers of DPDK (is libclang-dev installed?): {cause}").into()
    })
}

fn shim(cflags: &[String], source: &Path) {
    let mut build = cc::Build::new();
    // Optimised in debug builds as well: this is where the burst functions are inlined.
    build.file(source).include(".").opt_level(2).warnings(false);
    for flag in cflags {
        build.flag(flag);
    }
    build.compile("dpdk_rs_shim");
}
