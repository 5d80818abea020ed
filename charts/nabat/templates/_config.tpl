{{- /* The files that the programs read with --config. */ -}}

{{- define "nabat.edgeConfig" -}}
{{- $edge := .Values.edge -}}
{{- $tls := $edge.tls -}}
{{- $own := dict "listen" (ternary ":8080" "" (or (not $tls.enabled) $tls.plain)) "ops_listen" ":9090" -}}
{{- $_ := set $own "drain" (printf "%ds" (int $edge.drainSeconds)) -}}
{{- $_ := set $own "log_level" $edge.logLevel -}}
{{- $_ := set $own "log_format" $edge.logFormat -}}
{{- if $tls.enabled -}}
{{- $_ := set $own "tls_listen" ":8443" -}}
{{- $_ := set $own "tls_cert" (printf "/etc/nabat/tls/%s" $tls.certKey) -}}
{{- $_ := set $own "tls_key" (printf "/etc/nabat/tls/%s" $tls.keyKey) -}}
{{- $_ := set $own "tls_min_version" $tls.minVersion -}}
{{- end -}}
{{- with $edge.origins }}{{ $_ := set $own "origins" . }}{{ end -}}
{{- with $edge.trustedProxies }}{{ $_ := set $own "trusted_proxies" . }}{{ end -}}
{{- if ne $edge.proxyProtocol "off" }}{{ $_ := set $own "proxy_protocol" $edge.proxyProtocol }}{{ end -}}
{{- with $edge.maxConnections }}{{ $_ := set $own "max_connections" (int .) }}{{ end -}}
{{- toYaml (merge $own (include "nabat.whole" $edge.config | fromYaml)) -}}
{{- end -}}

{{- define "nabat.controlConfig" -}}
{{- $control := .Values.control -}}
{{- $copies := $control.natsReplicas | default (ternary .Values.nats.replicas 1 .Values.nats.enabled) | int -}}
{{- $own := dict "listen" ":8090" "ops_listen" ":9091" "replicas" $copies "policies" "/etc/nabat/policies/policies.yaml" -}}
{{- $_ := set $own "api_key_file" "/etc/nabat/api-key/api-key" -}}
{{- $_ := set $own "log_level" $control.logLevel -}}
{{- $_ := set $own "log_format" $control.logFormat -}}
{{- with $control.edgeURL }}{{ $_ := set $own "edge_url" . }}{{ end -}}
{{- toYaml (merge $own (include "nabat.whole" $control.config | fromYaml)) -}}
{{- end -}}

{{- /* whole writes numbers without a fraction as such: 100000000 instead of 1e+08. */ -}}
{{- define "nabat.whole" -}}
{{- $out := dict -}}
{{- range $key, $value := . -}}
{{- if and (kindIs "float64" $value) (eq (float64 (int64 $value)) $value) -}}
{{- $_ := set $out $key (printf "%d" (int64 $value)) -}}
{{- else -}}
{{- $_ := set $out $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}
