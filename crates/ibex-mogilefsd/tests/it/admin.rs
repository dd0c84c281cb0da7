//! Administration: domains, classes, hosts, devices, settings, and their refusals.

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_admin_commands() {
    let cluster = Cluster::start(1).populated().await;
    let mut raw = cluster.raw();
    for (request, reply) in [
        ("create_domain", "ERR no_domain No+domain+provided"),
        (
            "create_domain domain=t",
            "ERR domain_exists That+domain+already+exists",
        ),
        ("create_domain domain=u", "OK domain=u"),
        ("delete_domain domain=u", "OK domain=u"),
        (
            "delete_domain domain=u",
            "ERR domain_not_found Domain+not+found",
        ),
        (
            "delete_domain domain=t",
            "ERR domain_has_classes domain_has_classes",
        ),
        ("create_class domain=t", "ERR no_class No+class+provided"),
        (
            "create_class domain=t&class=c&mindevcount=0",
            "ERR invalid_mindevcount The+mindevcount+must+be+at+least+1",
        ),
        (
            "create_class domain=t&class=c&mindevcount=2&hashtype=CRC",
            "ERR invalid_hashtype invalid_hashtype",
        ),
        (
            "create_class domain=x&class=c&mindevcount=2",
            "ERR domain_not_found Domain+not+found",
        ),
        (
            "create_class domain=t&class=one&mindevcount=2",
            "ERR class_exists That+class+already+exists+in+that+domain",
        ),
        (
            "create_class domain=t&class=c&mindevcount=2&replpolicy=MultipleDevices()&hashtype=MD5",
            "OK domain=t&class=c&mindevcount=2",
        ),
        (
            "update_class domain=t&class=c&mindevcount=3",
            "OK domain=t&class=c&mindevcount=3",
        ),
        (
            "update_class domain=t&class=nope&mindevcount=3",
            "ERR class_not_found Class+not+found",
        ),
        (
            "update_class domain=t&class=default&mindevcount=1",
            "OK domain=t&class=default&mindevcount=1",
        ),
        (
            "update_class domain=t&class=default&mindevcount=2",
            "OK domain=t&class=default&mindevcount=2",
        ),
        (
            "delete_class domain=t&class=default",
            "ERR nodel_default_class Cannot+delete+the+default+class.",
        ),
        ("delete_class domain=t&class=c", "OK domain=t&class=c"),
        (
            "create_host ip=127.0.0.9&port=1",
            "ERR no_host No+host+provided",
        ),
        (
            "create_host host=node1&ip=127.0.0.9&port=1",
            "ERR host_exists That+host+already+exists",
        ),
        (
            "create_host host=h&port=1",
            "ERR no_ip IP+required+to+create+host",
        ),
        (
            "create_host host=h&ip=127.0.0.9",
            "ERR no_port Port+required+to+create+host",
        ),
        (
            "create_host host=h&ip=127.0.0.2&port=1",
            "ERR dup Duplicate+name/number+used.",
        ),
        (
            "create_host host=h&ip=127.0.0.9&port=1&status=sparkling",
            "ERR unknown_state Invalid/unknown+state",
        ),
        (
            "create_host host=h&ip=127.0.0.9&port=1",
            "OK hostid=2&hostname=h",
        ),
        (
            "update_host host=h&altip=127.0.0.2",
            "OK hostid=2&hostname=h",
        ),
        ("update_host host=nope", "ERR host_not_found Host+not+found"),
        (
            "delete_host host=node1",
            "ERR host_not_empty Unable+to+delete+host%3B+it+contains+devices+still",
        ),
        ("delete_host host=nope", "ERR unknown_host Host+not+found"),
        (
            "create_device devid=x&hostname=h",
            "ERR invalid_devid invalid_devid",
        ),
        (
            "create_device devid=1&hostname=h",
            "ERR existing_devid existing_devid",
        ),
        (
            "create_device devid=5&hostname=nope",
            "ERR unknown_host Host+not+found",
        ),
        (
            "create_device devid=5&hostid=99",
            "ERR unknown_hostid unknown_hostid",
        ),
        (
            "create_device devid=5",
            "ERR bad_args No+hostid/hostname+parameter",
        ),
        (
            "create_device devid=5&hostid=2&state=odd",
            "ERR invalid_state invalid_state",
        ),
        ("create_device devid=5&hostid=2&state=down", "OK "),
        (
            "set_state host=h&device=1&state=down",
            "ERR host_mismatch The+device+specified+doesn%27t+belong+to+the+host+specified",
        ),
        ("set_state host=h&device=5&state=dead", "OK "),
        (
            "set_state host=h&device=5&state=alive",
            "ERR state_too_high Status+cannot+go+from+dead+to+alive%3B+must+use+down",
        ),
        ("set_state host=h&device=5&state=down", "OK "),
        (
            "set_state host=h&device=77&state=down",
            "ERR no_device Device+not+found",
        ),
        ("set_weight host=h&device=5&weight=50", "OK "),
        (
            "set_weight host=h&device=5&weight=-1",
            "ERR bad_params Invalid+parameters+to+command%3B+please+see+documentation",
        ),
        ("set_server_setting key=skip_mkcol&value=yes", "OK "),
        ("server_setting key=skip_mkcol", "OK key=skip_mkcol&value=1"),
        ("server_setting key=nothing", "OK key=nothing&value="),
        (
            "set_server_setting key=schema_version&value=1",
            "ERR not_writable not_writable",
        ),
        (
            "rebalance_start",
            "ERR no_rebal_policy No+rebalance+policy+available",
        ),
        (
            "rebalance_stop",
            "ERR rebal_not_started Rebalance+not+running",
        ),
        (
            "rebalance_status",
            "ERR no_rebal_state No+available+rebalance+status",
        ),
        (
            "rebalance_set_policy policy=bogus%3D1",
            "ERR bad_rebal_pol Invalid+setting+bogus",
        ),
    ] {
        assert_eq!(raw.ask(request), reply, "{request}");
    }
    let devices = raw.ask("get_devices devid=5");
    assert!(devices.starts_with("OK devices=1&dev1_devid=5&dev1_hostid=2&dev1_status=down&dev1_weight=50&dev1_observed_state=&"), "{devices}");
    let hosts = raw.ask("get_hosts hostid=2");
    assert_eq!(
        hosts,
        "OK hosts=1&host1_hostid=2&host1_status=down&host1_hostname=h&host1_hostip=127.0.0.9&host1_http_port=1&host1_http_get_port=&host1_altip=127.0.0.2&host1_altmask="
    );
    let domains = raw.ask("get_domains");
    assert!(
        domains.starts_with("OK domains=1&domain1=t&domain1classes=4&domain1class1name=default&domain1class1mindevcount=2&domain1class1replpolicy=MultipleHosts%28%29&domain1class1hashtype=NONE"),
        "{domains}"
    );
    cluster.stop();
}
