{{- define "limelens.volumes" -}}
{{- $from := include "limelens.modelsFrom" . -}}
{{- $values := .Values -}}
{{- if eq $from "claim" -}}
- name: models
  persistentVolumeClaim: {claimName: {{ $values.models.existingClaim | quote }}, readOnly: true}
{{- else if eq $from "image" -}}
- name: models
  image: {{- toYaml $values.models.image | nindent 4 }}
{{- else if eq $from "init" -}}
- name: models
  emptyDir: {sizeLimit: {{ $values.models.init.sizeLimit | quote }}}
{{- end }}
# Mounted as whole folders, so that the running server sees renewed secrets.
{{- if $values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "limelens.tlsSecret" . | quote }}, defaultMode: 0440}
{{- end }}
{{- with $values.tls.clientCa.existingSecret }}
- name: client-ca
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- if $values.tokens.enabled }}
- name: access
  secret: {secretName: {{ include "limelens.tokensSecret" . | quote }}, defaultMode: 0440}
{{- end }}
{{- if $values.models.requireSignatures }}
- name: keys
  configMap: {name: {{ printf "%s-keys" (include "limelens.fullname" .) | quote }}}
{{- end }}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: {{ $values.tmpSize | quote }}}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
