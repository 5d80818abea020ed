{{- /* What values.schema.json cannot say: combinations that cannot work. */ -}}
{{- define "nabat.check" -}}
{{- $v := .Values -}}
{{- $edge := $v.edge -}}
{{- if and $edge.autoscaling.enabled $edge.keda.enabled -}}
{{- fail "edge.autoscaling.enabled and edge.keda.enabled are both on: KEDA makes its own HorizontalPodAutoscaler. Turn one off" -}}
{{- end -}}
{{- if and $edge.autoscaling.enabled (not $edge.autoscaling.cpuPercent) (not $edge.autoscaling.connectionsPerPod) -}}
{{- fail "edge.autoscaling has neither cpuPercent nor connectionsPerPod: give one, or turn it off" -}}
{{- end -}}
{{- if gt (int $edge.autoscaling.minReplicas) (int $edge.autoscaling.maxReplicas) -}}
{{- fail (printf "edge.autoscaling.minReplicas is %d and maxReplicas %d: raise maxReplicas" (int $edge.autoscaling.minReplicas) (int $edge.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and $edge.keda.enabled (not $edge.keda.serverAddress) -}}
{{- fail "edge.keda.enabled is on without edge.keda.serverAddress: give the address of Prometheus, such as http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- if and $edge.tls.enabled (not $edge.tls.existingSecret) -}}
{{- fail "edge.tls.enabled is on without edge.tls.existingSecret: name a secret of type kubernetes.io/tls" -}}
{{- end -}}
{{- if and (ne $edge.proxyProtocol "off") (not $edge.trustedProxies) -}}
{{- fail (printf "edge.proxyProtocol is %q without edge.trustedProxies: name the networks of the proxies, or nobody's header is believed" $edge.proxyProtocol) -}}
{{- end -}}
{{- if and $edge.ingress.enabled (not $edge.ingress.hosts) -}}
{{- fail "edge.ingress.enabled is on without edge.ingress.hosts: name a host" -}}
{{- end -}}
{{- if and $v.control.ingress.enabled (not $v.control.ingress.hosts) -}}
{{- fail "control.ingress.enabled is on without control.ingress.hosts: name a host" -}}
{{- end -}}
{{- if and $edge.httpRoute.enabled (not $edge.httpRoute.parentRefs) -}}
{{- fail "edge.httpRoute.enabled is on without edge.httpRoute.parentRefs: name a gateway" -}}
{{- end -}}
{{- if and $edge.tls.enabled (not $edge.tls.plain) (or $edge.ingress.enabled $edge.httpRoute.enabled) -}}
{{- fail "edge.ingress and edge.httpRoute lead to the plain port, and edge.tls.plain is off: turn it on, or end TLS at one place only" -}}
{{- end -}}
{{- range $name := list "edge" "control" -}}
{{- range $key := keys (index $v $name "config") -}}
{{- if has $key (list "listen" "tls_listen" "tls_cert" "tls_key" "tls_min_version" "ops_listen" "nats_url" "nats_credentials" "nats_token" "node" "drain" "origins" "trusted_proxies" "proxy_protocol" "max_connections" "log_level" "log_format" "replicas" "policies" "api_key" "api_key_file" "edge_url" "dev") -}}
{{- fail (printf "%s.config.%s: the chart sets it. It has a value of its own: see values.yaml" $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "nabat.checkNats" . -}}
{{- end -}}

{{- define "nabat.checkNats" -}}
{{- $nats := .Values.nats -}}
{{- $v := .Values -}}
{{- range $key := list "subject_prefix" "live_prefix" "rpc_prefix" "hook_prefix" "nats_inbox" -}}
{{- range $name := list "edge" "control" -}}
{{- if and $nats.enabled (hasKey (index $v $name "config") $key) (not (index $nats.permissions $name)) -}}
{{- fail (printf "%s.config.%s: the permissions of the role are for the standard subjects: give nats.permissions.%s, too" $name $key $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $auth := .Values.externalNats.auth -}}
{{- if and (not $nats.enabled) (not .Values.externalNats.urls) -}}
{{- fail "nats.enabled is off and externalNats.urls is empty: name the NATS servers, such as nats://nats.example:4222" -}}
{{- end -}}
{{- if and $nats.enabled .Values.externalNats.urls -}}
{{- fail "externalNats.urls is given and nats.enabled is on: turn nats.enabled off, or take out the addresses" -}}
{{- end -}}
{{- if and (not $nats.enabled) (ne $auth.method "none") (not $auth.existingSecret) -}}
{{- fail (printf "externalNats.auth.method is %q without externalNats.auth.existingSecret: name the secret" $auth.method) -}}
{{- end -}}
{{- if and $nats.enabled (eq $nats.image.program "nats-server") (not $nats.image.repository) -}}
{{- fail "nats.image.program is nats-server without nats.image.repository: name an image that has it, such as nats with a tag" -}}
{{- end -}}
{{- if and $nats.image.repository (not $nats.image.tag) (not $nats.image.digest) -}}
{{- fail "nats.image.repository is given without nats.image.tag or nats.image.digest: the chart's version says nothing about it" -}}
{{- end -}}
{{- if and $nats.enabled (gt (int .Values.control.natsReplicas) (int $nats.replicas)) -}}
{{- fail (printf "control.natsReplicas is %d and nats.replicas %d: there cannot be more copies than servers" (int .Values.control.natsReplicas) (int $nats.replicas)) -}}
{{- end -}}
{{- end -}}
