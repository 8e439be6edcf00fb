/*
 * charon's plugin kernel-nf-core.
 */
#include "ipsec.h"

#include <daemon.h>
#include <plugins/plugin.h>

/** What charon looks for in the library. */
plugin_t *kernel_nf_core_plugin_create() __attribute__((visibility("default")));

METHOD(plugin_t, get_name, char*,
	plugin_t *this)
{
	return "kernel-nf-core";
}

METHOD(plugin_t, get_features, int,
	plugin_t *this, plugin_feature_t *features[])
{
	static plugin_feature_t provided[] = {
		PLUGIN_CALLBACK(kernel_ipsec_register, nf_core_ipsec_create),
			PLUGIN_PROVIDE(CUSTOM, "kernel-ipsec"),
	};
	*features = provided;
	return countof(provided);
}

METHOD(plugin_t, destroy, void,
	plugin_t *this)
{
	free(this);
}

plugin_t *kernel_nf_core_plugin_create()
{
	plugin_t *this;

	INIT(this,
		.get_name = _get_name,
		.get_features = _get_features,
		.destroy = _destroy,
	);
	return this;
}
